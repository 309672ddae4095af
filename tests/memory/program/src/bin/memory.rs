//! The program with the allocator of the system.

fn main() {
    secretwell_memory::run();
}
