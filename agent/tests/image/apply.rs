//! What is unpacked is what was packed; how layers stack is compared with umoci.
