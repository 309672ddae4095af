//! A program that reads a secret, uses it and drops it, with an allocator that wipes what is freed. The tests of the module `memory` read
//! its memory.

use std::alloc::System;

use zeroizing_alloc::ZeroAlloc;

#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() {
    secretwell_memory::run();
}
