"""The models that come with volumetool, as safetensors files with their cards."""
