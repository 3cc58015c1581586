"""One run of `train.py`: segment, distill, pretrain; and what is done with a finished one."""
