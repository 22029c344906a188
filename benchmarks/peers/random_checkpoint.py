"""Write a model with random bf16 weights, as transformers saves it.

usage: python random_checkpoint.py CONFIG.json FOLDER
"""

import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM

source, folder = sys.argv[1:]
torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source), dtype=torch.bfloat16)
model.save_pretrained(folder)
