// Found before NVIDIA's header of this name, to refuse it with a sentence.
#error the emulator has no bfloat16: write in fp32 with barriers and shuffles, or use nvcc
