"""What these tests compile is kept where everything that is compiled is."""

from foundry.core.kernels import native_kernels

native_kernels()
