"""Well-known classification networks, cut down to their features; names as in torchvision."""
