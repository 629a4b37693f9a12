"""No test reaches the network, or a model that this machine happens to have."""

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": os.devnull}  # before huggingface_hub is imported, which reads it
