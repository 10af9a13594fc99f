//! The built-in guest: a kernel and an initrd made by guest-images/ and carried inside the program.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::iter;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::slice;

use crate::boot::{Image, StableFile};

const MIB: u64 = 1 << 20;

// DATA, where the kernel's writable segments start, and WRITTEN_BEFORE_DATA, what a boot writes of the others.
#[cfg(built_in_guest)]
include!(concat!(env!("OUT_DIR"), "/kernel_layout.rs"));
#[cfg(not(built_in_guest))]
const DATA: u64 = 8 * MIB;
#[cfg(not(built_in_guest))]
const WRITTEN_BEFORE_DATA: &[Range<u64>] = &[];

/// Where the kernel's data and the memory after it end, of which it writes nearly all while it boots.
const DATA_END: u64 = DATA + 4 * MIB;

/// Guest addresses of which the built-in kernel writes nearly all while it boots, in the order in which it gains most if they
/// are provided before: a page of the kernel's file costs a boot three faults.
pub fn written_at_boot() -> impl Iterator<Item = Range<u64>> {
    WRITTEN_BEFORE_DATA
        .iter()
        .cloned()
        .chain(iter::once(DATA..DATA_END))
}

/// Guest addresses of which it writes only single pages while it boots: its code and the initrd, which are below its data, and
/// the memory after its first allocations.
pub const HARDLY_WRITTEN_AT_BOOT: [Range<u64>; 2] = [0..DATA, DATA_END..DATA_END + 4 * MIB];

/// The built-in kernel, unless the program was built without one.
pub fn kernel() -> Option<Image> {
    KERNEL.map(|bytes| image("the built-in kernel", bytes))
}

/// The built-in initrd, unless the program was built without one.
pub fn initrd() -> Option<Image> {
    INITRD.map(|bytes| image("the built-in initrd", bytes))
}

/// The bytes of the built-in initrd, unless the program was built without one.
pub fn initrd_bytes() -> Option<&'static [u8]> {
    INITRD
}

fn image(name: &'static str, bytes: &'static [u8]) -> Image {
    let file = in_program(bytes);
    if file.is_none() {
        log::debug!("{name} is copied: the program's own file cannot be mapped");
    }
    Image::BuiltIn { name, bytes, file }
}

/// Something that starts on a page of the program's file, so that it can be mapped from there.
#[cfg_attr(not(built_in_guest), allow(dead_code))]
#[repr(C, align(4096))]
struct PageAligned<T: ?Sized>(T);

#[cfg(built_in_guest)]
const KERNEL: Option<&[u8]> = {
    static BYTES: &PageAligned<[u8]> = &PageAligned(*include_bytes!(env!("CORACLE_KERNEL")));
    Some(&BYTES.0)
};
#[cfg(built_in_guest)]
const INITRD: Option<&[u8]> = {
    static BYTES: &PageAligned<[u8]> = &PageAligned(*include_bytes!(env!("CORACLE_INITRD")));
    Some(&BYTES.0)
};

#[cfg(not(built_in_guest))]
const KERNEL: Option<&[u8]> = None;
#[cfg(not(built_in_guest))]
const INITRD: Option<&[u8]> = None;

/// Where bytes that are part of the program are in its file. Linux lets nobody write to the file of a running program,
/// except in some versions and on some file systems. Therefore the first and the last of the bytes in the file are
/// compared with those in memory; where they differ, the file is not used.
fn in_program(bytes: &'static [u8]) -> Option<StableFile> {
    let offset = offset_in_program(bytes)?;
    let file = File::open("/proc/self/exe").ok()?;
    let (start, end) = (bytes.first_chunk::<64>()?, bytes.last_chunk::<64>()?);
    let is_at = |chunk: &[u8; 64], offset| {
        let mut found = [0; 64];
        file.read_exact_at(&mut found, offset).is_ok() && found == *chunk
    };
    let whole = is_at(start, offset) && is_at(end, offset + bytes.len() as u64 - 64);
    whole.then_some(StableFile { file, offset })
}

fn offset_in_program(bytes: &'static [u8]) -> Option<u64> {
    struct Search {
        address: u64,
        length: u64,
        offset: Option<u64>,
    }
    /// Is called for the program itself first. It returns 1, so that it is not called for the shared libraries.
    unsafe extern "C" fn search(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
        // SAFETY: dl_iterate_phdr hands over a valid `info`, and the `Search` it was given.
        let (info, search) = unsafe { (&*info, &mut *data.cast::<Search>()) };
        // SAFETY: the program headers of the running program, for as long as it runs.
        let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        search.offset = headers
            .iter()
            .filter(|header| header.p_type == libc::PT_LOAD)
            .find_map(|header| {
                let within = search.address.checked_sub(info.dlpi_addr + header.p_vaddr)?;
                (within + search.length <= header.p_filesz).then_some(header.p_offset + within)
            });
        1
    }
    let mut found = Search {
        address: bytes.as_ptr() as u64,
        length: bytes.len() as u64,
        offset: None,
    };
    // SAFETY: `search` takes `found` for what it is, within this call.
    unsafe { libc::dl_iterate_phdr(Some(search), (&raw mut found).cast()) };
    found.offset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_file_holds_its_bytes_where_they_are_said_to_be() {
        static BYTES: [u8; 9000] = {
            let mut bytes = [0; 9000];
            let mut index = 0;
            while index < bytes.len() {
                bytes[index] = (index % 251) as u8;
                index += 1;
            }
            bytes
        };
        let place = in_program(&BYTES).unwrap();
        let mut read = [0; 9000];
        place.file.read_exact_at(&mut read, place.offset).unwrap();
        assert_eq!(read, BYTES);
    }

    #[test]
    fn bytes_outside_of_the_programs_file_have_no_place_in_it() {
        assert!(offset_in_program(Box::leak(Box::new([1; 100]))).is_none());
    }
}
