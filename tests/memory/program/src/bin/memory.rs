//! A program that reads a secret, uses it and drops it, with the allocator of the system. The tests of the module `memory` read
//! its memory.

fn main() {
    secretwell_memory::run();
}
