"""From pixel vectors to class scores: stacked ensembles of pixel classifiers."""
