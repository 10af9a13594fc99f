//! Whole-program tests on real KVM with tiny guests.
