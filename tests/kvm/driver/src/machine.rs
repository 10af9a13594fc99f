//! The machine around the guest: console, ways to end, memory, and the places of its devices.

use core::alloc::{GlobalAlloc, Layout};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// 16550A, transmitter holding register.
const SERIAL_PORT: u16 = 0x3f8;
/// ACPI 6.4 section 4.8.3.7, Sleep Control Register: sleep type 5 and the enable bit.
const SLEEP_CONTROL_PORT: u16 = 0x600;
const POWER_OFF: u8 = 5 << 2 | 1 << 5;
/// The keyboard controller's command port, and its command to pulse the reset line.
const KEYBOARD_PORT: u16 = 0x64;
const RESET: u8 = 0xfe;

/// Linux x86 boot protocol, zero page: 32 bits, the address of the command line.
const CMD_LINE_PTR: usize = 0x228;

fn out(port: u16, byte: u8) {
    // SAFETY: the ports that this file names do nothing to memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack)) }
}

/// The serial port, which never has to be waited for here.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| out(SERIAL_PORT, byte));
        Ok(())
    }
}

#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {{
        use core::fmt::Write;
        let _ = writeln!($crate::machine::Console, $($text)*);
    }};
}

pub fn power_off() -> ! {
    end(SLEEP_CONTROL_PORT, POWER_OFF)
}

/// A reset, so that the end differs from that of a guest that made all its checks.
pub fn reset() -> ! {
    end(KEYBOARD_PORT, RESET)
}

fn end(port: u16, byte: u8) -> ! {
    loop {
        out(port, byte);
    }
}

/// Lets the device go idle. The driver looks whether the device wants to be notified without the barrier that virtio
/// 1.2 section 2.7.13.4.1 asks for before it, so a request made while the device goes idle is one that neither hears
/// of. A millisecond or so is longer than that takes.
pub fn settle() {
    for _ in 0..20_000 {
        core::hint::spin_loop();
    }
}

/// The windows that the command line names: `virtio_mmio.device=SIZE@ADDRESS:IRQ`.
pub fn windows(zero_page: usize) -> impl Iterator<Item = usize> {
    // SAFETY: the entry was given the zero page, and nothing writes to it or to the command line, which ends with NUL.
    let command_line = unsafe {
        let address = (zero_page as *const u8)
            .add(CMD_LINE_PTR)
            .cast::<u32>()
            .read_unaligned();
        CStr::from_ptr(address as usize as *const _)
    };
    let words = command_line.to_str().unwrap_or_default().split_ascii_whitespace();
    words
        .filter_map(|word| word.strip_prefix("virtio_mmio.device="))
        .filter_map(|device| {
            let address = device.split_once("@0x")?.1.split_once(':')?.0;
            usize::from_str_radix(address, 16).ok()
        })
}

/// What the driver and this program allocate, and never free: the guest ends before it is used up.
struct Arena(UnsafeCell<[u8; ARENA_SIZE]>, AtomicUsize);

const ARENA_SIZE: usize = 4 << 20;

#[global_allocator]
static ARENA: Arena = Arena(UnsafeCell::new([0; ARENA_SIZE]), AtomicUsize::new(0));

// SAFETY: no two allocations overlap, and nothing else looks into the cell.
unsafe impl Sync for Arena {}

// SAFETY: each allocation lies in the arena, behind the one before, and on a multiple of its alignment.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = self.0.get() as usize;
        let start = (base + self.1.load(Ordering::Relaxed)).next_multiple_of(layout.align());
        let end = start + layout.size() - base;
        if end > ARENA_SIZE {
            return core::ptr::null_mut();
        }
        self.1.store(end, Ordering::Relaxed);
        start as *mut u8
    }

    unsafe fn dealloc(&self, _memory: *mut u8, _layout: Layout) {}
}

/// Guest addresses for devices, which equal the program's own addresses.
pub struct OneToOne;

// SAFETY: pages come from the allocator, zeroed because it gives nothing out twice.
unsafe impl Hal for OneToOne {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let layout = Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).expect("a few pages");
        // SAFETY: the layout is of some pages.
        let memory = unsafe { ARENA.alloc(layout) };
        let memory = NonNull::new(memory).expect("the arena has room");
        (memory.as_ptr() as PhysAddr, memory)
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as usize as *mut u8).expect("no device is at 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
