//! A guest that drives Coracle's devices with a driver that somebody else wrote, the `virtio-drivers` crate. What it
//! finds it says on the serial port, and tests/kvm/third_party.rs compares that with what must be.

#![no_std]
// No loop of c_library becomes a call of itself.
#![no_builtins]
#![no_main]

extern crate alloc;

mod c_library;
mod disk;
mod entropy;
mod machine;
mod plan;

use core::arch::global_asm;
use core::panic::PanicInfo;
use core::ptr::NonNull;

use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::transport::{DeviceType, Transport};

global_asm!(include_str!("entry.s"));

const WINDOW_SIZE: usize = 0x1000;

/// Where the entry goes on, in ring 3.
#[unsafe(no_mangle)]
extern "C" fn program(zero_page: usize) -> ! {
    for window in machine::windows(zero_page) {
        let open = || {
            let header = NonNull::new(window as *mut _).expect("no window is at 0");
            // SAFETY: the command line names the window of a device, and each is opened when it is closed.
            unsafe { MmioTransport::new(header, WINDOW_SIZE) }.expect("the window is of a virtio device")
        };
        match open().device_type() {
            DeviceType::Block => disk::exercise(window, open),
            DeviceType::EntropySource => entropy::exercise(open()),
            other => say!("{other:?}: not known here"),
        }
    }
    say!("done");
    machine::power_off()
}

#[panic_handler]
fn panic(why: &PanicInfo) -> ! {
    say!("{why}");
    machine::reset()
}
