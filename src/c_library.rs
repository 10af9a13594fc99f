//! A part of the C library, small: a static program carries what it links.

use std::ffi::{CStr, c_char, c_int};

/// What `pthread_getattr_np` asks of a line of /proc/self/maps.
const ADDRESS_RANGE: &CStr = c"%lx-%lx";

/// `sscanf` as far as this program has it called: by glibc's `pthread_getattr_np`, which every Rust program calls before
/// `main` to know where its stack ends. glibc's own brings the parsing of numbers of every kind with it, 95 kB.
///
/// # Safety
/// `text` and `format` are C strings; if `format` is "%lx-%lx", `start` and `end` may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn __isoc99_sscanf(
    text: *const c_char,
    format: *const c_char,
    start: *mut usize,
    end: *mut usize,
) -> c_int {
    // SAFETY: the caller's promise.
    let (text, format) = unsafe { (CStr::from_ptr(text), CStr::from_ptr(format)) };
    if format != ADDRESS_RANGE {
        return 0;
    }
    let [first, second] = addresses(text.to_bytes());
    // SAFETY: the format says that these are two places for an unsigned long.
    unsafe {
        match (first, second) {
            (Some(first), Some(second)) => {
                *start = first;
                *end = second;
                2
            }
            (Some(first), None) => {
                *start = first;
                1
            }
            _ => 0,
        }
    }
}

/// Two hexadecimal numbers with a "-" between, at the start of a line.
fn addresses(line: &[u8]) -> [Option<usize>; 2] {
    let number = |text: &[u8]| {
        let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let number = usize::from_str_radix(std::str::from_utf8(&text[..digits]).ok()?, 16).ok()?;
        Some((number, digits))
    };
    let Some((first, digits)) = number(line) else {
        return [None; 2];
    };
    let rest = line[digits..].strip_prefix(b"-");
    [Some(first), rest.and_then(number).map(|(second, _)| second)]
}

#[cfg(test)]
#[path = "c_library_test.rs"]
mod tests;
