"""Well-known classification networks without their classifiers; names as in torchvision."""
