"""Files that are no volumes: what they are, and how a volume can be made of them."""

from __future__ import annotations

from pathlib import Path

from volumetool.paths import open_file

_FIJI = "Open it in Fiji and save it as TIFF, then `volumetool convert FILE.tif OUTPUT.zarr --voxel-size z,y,x`."
_IMAGES = (
    "Save the images as TIFF first (Fiji, or ImageMagick's `mogrify -format tif`), then "
    "`volumetool convert FOLDER OUTPUT.zarr --voxel-size z,y,x`."
)
_BIOFORMATS = (
    "`bioformats2raw FILE OUTPUT.zarr` writes it as OME-Zarr with its pixel sizes: give OUTPUT.zarr then. Or open it in "
    "Fiji, and save it as TIFF."
)
_PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}
"""How files begin that are compressed as a whole, by what, and the command that unpacks them."""

_TIFF = "Convert it first: `volumetool convert FILE.tif OUTPUT.zarr`; the name must end in .tif or .tiff."
_MODEL = "Models are given with --model."

_MICROSCOPES = {
    ".lif": "a Leica LIF file",
    ".nd2": "a Nikon ND2 file",
    ".vsi": "an Olympus VSI file",
    ".oib": "an Olympus OIB file",
    ".oif": "an Olympus OIF file",
    ".oir": "an Olympus OIR file",
    ".am": "an Amira file",
    ".nii": "a NIfTI file",
}
"""By their names: some begin like TIFF."""

_BEGINS = {
    b"II*\0": ("a TIFF image", _TIFF),
    b"MM\0*": ("a TIFF image", _TIFF),
    b"II+\0": ("a TIFF image", _TIFF),
    b"MM\0+": ("a TIFF image", _TIFF),
    b"\x89PNG\r\n\x1a\n": ("a PNG image", "Its name must end in .png."),
    b"\xff\xd8\xff": ("a JPEG image", "Its name must end in .jpg or .jpeg."),
    b"\0\0\0\x0cjP  ": ("a JPEG 2000 image", _IMAGES),
    b"GIF8": ("a GIF image", _IMAGES),
    b"PK\x03\x04": ("a zip archive", "If it holds a volume, name it with .zip or .ozx at its end; else unpack it."),
    b"\xda\xce\xbe\x0a": ("a Nikon ND2 file", _BIOFORMATS),
    b"OLYMPUSRAWFORMAT": ("an Olympus OIR file", _BIOFORMATS),
    b"WKW": ("a webKnossos file", "Export the dataset as OME-Zarr from webKnossos."),
}
_ENDS = {
    **dict.fromkeys((".jp2", ".j2k", ".jpx", ".jpf"), ("a JPEG 2000 image by its name", _IMAGES)),
    **dict.fromkeys((".mha", ".mhd"), ("a MetaImage by its name", _FIJI)),
    **dict.fromkeys((".pt", ".pth", ".onnx", ".safetensors", ".ckpt"), ("a model by its name, not a volume", _MODEL)),
    **dict.fromkeys((".yaml", ".yml"), ("a YAML file", "A job file is given with --config.")),
}
_XML = "It is opened where the N5 container or HDF5 file that it names lies beside it: copy that there, too."
_HEAD = 512


def describe_file(file: Path) -> tuple[str, str]:
    """Return what a file that is no volume is, by its first bytes or else by its name, and what to do.

    Parameters
    ----------
    file : Path
        A local file.

    Returns
    -------
    tuple of str
        Such as ``"an NRRD file"``, and a hint.
    """
    try:
        with open_file(file) as opened:
            head = opened.read(_HEAD)
    except OSError as error:
        return f"not to be read: {error.strerror}", "Give a volume: a folder, or a URL."
    if (microscope := _MICROSCOPES.get(file.suffix.lower())) is not None:
        return microscope, _BIOFORMATS
    for begin, (method, command) in _PACKED.items():
        if head.startswith(begin):
            why = "No section of it can be found without unpacking all before it"
            return f"compressed with {method}", f"{why}: `{command} -k {file.name}`, then give {file.stem}."
    known = next((said for begin, said in _BEGINS.items() if head.startswith(begin)), None)
    if b"<SpimData" in head or (file.suffix.lower() == ".xml" and head.lstrip().startswith(b"<")):
        return "an XML file, as BigDataViewer writes", _XML
    return known or _ENDS.get(file.suffix.lower()) or ("a file", "Most volumes are a folder, or a URL: give that.")
