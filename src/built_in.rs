//! The built-in guest: a kernel and an initrd made by guest-images/ and carried inside the program.

use crate::boot::Image;

/// The built-in kernel, unless the program was built without one.
pub fn kernel() -> Option<Image> {
    KERNEL.map(|bytes| Image::BuiltIn {
        name: "the built-in kernel",
        bytes,
    })
}

/// The built-in initrd, unless the program was built without one.
pub fn initrd() -> Option<Image> {
    INITRD.map(|bytes| Image::BuiltIn {
        name: "the built-in initrd",
        bytes,
    })
}

#[cfg(built_in_guest)]
const KERNEL: Option<&[u8]> = Some(include_bytes!(env!("CORACLE_KERNEL")));
#[cfg(built_in_guest)]
const INITRD: Option<&[u8]> = Some(include_bytes!(env!("CORACLE_INITRD")));

#[cfg(not(built_in_guest))]
const KERNEL: Option<&[u8]> = None;
#[cfg(not(built_in_guest))]
const INITRD: Option<&[u8]> = None;
