"""The result of each step, one module a step: records that the step writes and the driver reads.

Part of the contract: standard library only, and nothing of ``kiln`` or of the steps.
"""
