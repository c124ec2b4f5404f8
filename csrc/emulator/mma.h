// Found before NVIDIA's header of this name, to refuse it with a sentence.
#error the emulator has no tensor cores (wmma): write the kernel in fp32 with barriers and shuffles, or build it with nvcc only
