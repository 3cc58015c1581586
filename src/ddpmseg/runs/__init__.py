"""One run of `ddpmseg train`: segment, distill, pretrain; and what is done with a finished one."""
