//! Linux guests, in the nested machine where the host cannot run them.
fn main() {}
