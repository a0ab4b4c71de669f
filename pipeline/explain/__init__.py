"""Why a quantized model differs from float: layer by layer, by what leaving a layer in float brings, and by cause."""
