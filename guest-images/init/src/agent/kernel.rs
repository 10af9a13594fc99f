//! What the host may ask of the guest's kernel.

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::time::TimeSpec;
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime, clock_settime};

/// Where random bytes are added to the kernel's (random(4)).
const RANDOM: &str = "/dev/random";
const RNDADDENTROPY: libc::Ioctl = nix::request_code_write!(b'R', 3, size_of::<[i32; 2]>()) as libc::Ioctl;

/// A clock that is off by less than this is left alone: telling the time took some, too.
const SECONDS_OFF: i64 = 1;

/// Sets the clock that tells the time of day, if it is wrong. An error is a sentence.
pub fn set_clock(seconds: u64, nanoseconds: u32) -> Result<(), String> {
    let seconds = seconds
        .try_into()
        .map_err(|_| "the guest has no such time".to_owned())?;
    let time = TimeSpec::new(seconds, nanoseconds.into());
    if clock_gettime(ClockId::CLOCK_REALTIME).is_ok_and(|now| (time - now).num_seconds().abs() < SECONDS_OFF)
    {
        return Ok(());
    }
    clock_settime(ClockId::CLOCK_REALTIME, time)
        .map_err(|why| format!("cannot set the clock: {}", why.desc()))
}

/// Adds random bytes to the kernel's, which count in full. An error is a sentence.
pub fn add_entropy(bytes: &[u8]) -> Result<(), String> {
    let random = File::options()
        .write(true)
        .open(RANDOM)
        .map_err(|error| format!("cannot open {RANDOM}: {error}"))?;
    // struct rand_pool_info: how many bits count, how many bytes there are, and the bytes.
    let length = i32::try_from(bytes.len()).map_err(|_| "there are too many bytes".to_owned())?;
    let mut pool = [(length * 8).to_ne_bytes(), length.to_ne_bytes()].concat();
    pool.extend(bytes);
    // SAFETY: the kernel reads the two numbers and as many bytes as the second says, all of which `pool` has. It needs no
    // alignment.
    let added = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, pool.as_ptr()) };
    Errno::result(added)
        .map(drop)
        .map_err(|why| format!("cannot add entropy: {}", why.desc()))
}
