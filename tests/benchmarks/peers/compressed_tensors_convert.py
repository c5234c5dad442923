"""compressed-tensors' own conversion: python compressed_tensors_convert.py SOURCE TARGET"""

import sys

from compressed_tensors.entrypoints.convert import FP8BlockDequantizer, convert_checkpoint

if __name__ == "__main__":
    converter = FP8BlockDequantizer.from_pretrained(sys.argv[1])
    convert_checkpoint(sys.argv[1], sys.argv[2], converter, max_workers=1)
