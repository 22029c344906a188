"""Formats: models in files, ours and those of others.

config_file  config.yaml as plain values
checkpoint   folders that are there whole or not at all
load         a model and its tokenizer from wherever they lie
names        the Rosetta table: what every format calls the parts of one model
convert      all tensors of a model from one format to another

safetensors_file  a safetensors file, its header checked, its tensors mapped
hf_config         config.json of Hugging Face and our config
hf_rope           its rotary positions
huggingface       a folder of Hugging Face, read and written
hub               a model fetched from the Hugging Face hub by its name
llama2c           the .bin files of llama2.c
ggml_blocks  the number types of GGUF: blocks of weights to floats and back
gguf         a GGUF file's header read and checked, and whole files written
gguf_config  a GGUF file's values as a config, and back
gguf_model   a whole model in one GGUF file

torch_file          a file of torch.save, read without running it
pickle_machine  what a pickle is: a small program, and the steps of it that make tensors
meta            params.json, consolidated.NN.pth and tokenizer.model, as Meta publishes them
meta_shards     a model cut for several GPUs, put together again
opened            a model in files, opened but not read
detect            which format a path holds, by what is in it
fingerprint       a hash that identifies a model, whatever format it is in
export            a model written in another format, and read back
rope_layout       which channels rope turns together, told from the weights
run               a run folder read back: its best checkpoint

"""
