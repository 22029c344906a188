"""Formats: models in files, ours and those of others.

load         a model and its tokenizer from files of any format
tokenizer    the tokenizer of a model, or in a file of its own
detect       which format a path holds, by its contents
info         what a model is, from the headers of its files: fathom.info
hub          a model fetched from the Hugging Face hub by its name
opened       a model in files, opened but not read
convert      which stored tensor each of ours comes from, checked once; what a file of a format holds
export       a model written in another format, read back and compared
fingerprint  a hash that identifies a model, whatever format it is in

run          a run folder: its best checkpoint
config_file  config.yaml as plain values
checkpoint   folders that are there whole or not at all

huggingface       a folder of Hugging Face, read and written
carried           what a folder keeps of the folder its model came from: settings that nothing here needs
safetensors_file  a safetensors file, its header checked, its tensors mapped
saved_names       names that other tools change: `_orig_mod.`, and base models without their prefix
text_part         of a model for pictures and texts, the part for texts
quantized         quantization_config read, and each packed layer given the place of its matrix
packed_layer      a layer whose codes, scales and zeros stand for one matrix
bitsandbytes      NF4, FP4 and int8 of bitsandbytes
gptq              GPTQ and AWQ
float8            8-bit floats with scales
compressed        layers of compressed-tensors
mlx               layers of MLX
mxfp4             experts of gpt-oss
gguf_model        a whole model in one GGUF file
gguf              a GGUF file's header read and checked, and whole files written
gguf_mix          the number type of each tensor, such as those of a Q4_K_M
gguf_keys         keys that no family reads: harmless ones, and those that are refused
ggml_blocks       the number types of GGUF: blocks of weights to floats
ggml_pack         floats to blocks
ggml_search       the scale of a group of numbers, by search
ggml_kept         GGUF's matrices as the number formats of fathom/quant hold them
ggml_layouts      blocks in memory
meta              params.json, consolidated.NN.pth and tokenizer.model, as Meta publishes them
torch_file        a file of torch.save, read without running it
torch_legacy      the same as torch before 1.6 wrote it
pickle_machine    the steps of a pickle that make tensors
llama2c           the .bin files of llama2.c
nanogpt           ckpt.pt of nanoGPT
litgpt            lit_model.pth and model_config.yaml of litgpt
other_names       tensors of formats that no family describes, under our names
"""
