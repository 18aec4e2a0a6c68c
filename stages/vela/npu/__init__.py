"""Runs the command streams that Vela compiles for an Ethos-U55, in numpy.

Written from what Vela publishes under Apache-2.0 (ethos-u-vela 4.5.0; its C encoder in the source
archive of 3.12.0): register definitions, and its generators and encoders read backwards. It
executes what a stream says at the addresses that it says, and refuses by name what it does not
know. Block timing, races between DMA and kernels, and conflicts in SHRAM are not modelled.

Nothing here needs anything of Kiln, or any package but numpy: others can take it out and use it.
"""
