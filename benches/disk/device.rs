//! The device alone: what its thread does for a read of 4 KiB, from the notification to the completion, beside what the
//! system calls that move the data cost without a device.
//!
//! Both are processor time of the thread, in the kernel and in the program, so that other programs hardly disturb the
//! figures. All threads are on one processor.

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use coracle::config::{Cache, Engine};
use coracle::interrupt::Interrupt;
use io_uring::{IoUring, opcode, types};
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use super::driver::{self, BLOCK, DEPTH, Device, Requests};
use super::offsets::Offsets;

/// Batches of as many requests as are under way at a time.
const BATCHES: usize = 500;
const ROUNDS: usize = 5;

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Nanoseconds for a request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Cost {
    pub engine: String,
    /// What the device's thread takes in all.
    pub thread: f64,
    /// What the same system calls take without a device.
    pub calls: f64,
    /// Of all threads, by whatever is served in the rounds.
    pub allocations: u64,
    pub requests: u64,
}

/// The least of several rounds for each engine, on an image that is in the page cache.
pub fn measure(image: &Path) -> Result<Vec<Cost>, Box<dyn Error>> {
    // Waking a thread on another processor costs an amount that varies with the host, so all stay on one.
    let _on_one_processor = OneProcessor::pin()?;
    let mut costs = Vec::new();
    for (name, engine) in [("sync", Engine::Sync), ("uring", Engine::Uring)] {
        let mut driver = Driver::new(image, engine)?;
        let size = fs::metadata(image)?.len();
        batches(&mut driver, size)?;
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..ROUNDS {
            batches(&mut driver, size)?;
        }
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        let (mut thread, mut calls) = (f64::MAX, f64::MAX);
        for _ in 0..ROUNDS {
            let before = device_time()?;
            batches(&mut driver, size)?;
            thread = thread.min(device_time()? - before);
            calls = calls.min(match engine {
                Engine::Uring => ring_calls(image, size)?,
                _ => plain_calls(image, size)?,
            });
        }
        let requests = (BATCHES * DEPTH) as f64;
        costs.push(Cost {
            engine: name.to_owned(),
            thread: thread / requests,
            calls: calls / requests,
            allocations,
            requests: (ROUNDS * BATCHES * DEPTH) as u64,
        });
    }
    Ok(costs)
}

/// This thread, and those that it starts, on the first processor that they may be on: until this is dropped.
struct OneProcessor(libc::cpu_set_t);

impl OneProcessor {
    fn pin() -> io::Result<Self> {
        // SAFETY: a set of zeroes is an empty one.
        let mut before: libc::cpu_set_t = unsafe { mem::zeroed() };
        // SAFETY: the set is written to its size.
        check(unsafe { libc::sched_getaffinity(0, size_of_val(&before), &mut before) })?;
        // SAFETY: a set of zeroes is an empty one.
        let mut first: libc::cpu_set_t = unsafe { mem::zeroed() };
        // SAFETY: the numbers are those of places in the sets.
        let number =
            (0..libc::CPU_SETSIZE as usize).find(|number| unsafe { libc::CPU_ISSET(*number, &before) });
        // SAFETY: as before.
        unsafe { libc::CPU_SET(number.unwrap_or_default(), &mut first) };
        set_affinity(&first)?;
        Ok(Self(before))
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        if let Err(error) = set_affinity(&self.0) {
            eprintln!("cannot leave the one processor: {error}");
        }
    }
}

fn set_affinity(processors: &libc::cpu_set_t) -> io::Result<()> {
    // SAFETY: the set is read to its size.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(processors), processors) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

pub fn print(what: &str, costs: &[Cost]) {
    println!("\nthe device alone, a read of 4 KiB at depth {DEPTH}, {what}");
    println!(
        "{:<10}{:>16}{:>20}{:>12}{:>26}",
        "engine", "its thread, ns", "system calls alone", "the device", "allocations"
    );
    for cost in costs {
        println!(
            "{:<10}{:>16.0}{:>20.0}{:>12.0}{:>15} in {}",
            cost.engine,
            cost.thread,
            cost.calls,
            cost.thread - cost.calls,
            cost.allocations,
            cost.requests
        );
    }
}

/// A driver that sleeps until all of its requests are complete.
struct Driver {
    device: Device,
    requests: Requests,
    /// What an interrupt writes.
    line: EventFd,
}

impl Driver {
    fn new(image: &Path, engine: Engine) -> Result<Self, Box<dyn Error>> {
        let memory = driver::memory()?;
        let requests = Requests::new(memory.clone(), false)?;
        let line = EventFd::new(0)?;
        let edge = line.try_clone()?;
        let interrupt = Interrupt::new(move || edge.write(1));
        let device = Device::start(image, engine, Cache::Writeback, memory, interrupt)?;
        Ok(Self {
            device,
            requests,
            line,
        })
    }

    fn finish(&mut self) -> Result<(), Box<dyn Error>> {
        self.device.notify(&mut self.requests)?;
        while !self.requests.want_interrupt_after(DEPTH as u16)? {
            self.line.read()?;
        }
        while self.requests.take()?.is_some() {}
        Ok(())
    }
}

fn batches(driver: &mut Driver, size: u64) -> Result<(), Box<dyn Error>> {
    let mut offsets = Offsets::new(size);
    for _ in 0..BATCHES {
        for slot in 0..DEPTH {
            driver.requests.offer(slot, offsets.next())?;
        }
        driver.finish()?;
    }
    Ok(())
}

/// Processor time of the device's thread, which sleeps when nothing is under way.
fn device_time() -> Result<f64, Box<dyn Error>> {
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        // The first thread has the program's name, which begins in the same way.
        let is_first = task.ends_with(process::id().to_string());
        if !is_first && fs::read_to_string(task.join("comm"))?.starts_with("disk-") {
            // It completes a request a moment before it sleeps.
            while !fs::read_to_string(task.join("stat"))?.contains(") S ") {
                std::thread::yield_now();
            }
            let statistics = fs::read_to_string(task.join("schedstat"))?;
            return Ok(statistics.split(' ').next().unwrap_or_default().parse()?);
        }
    }
    Err("the device has no thread".into())
}

/// Processor time of this thread.
fn own_time() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes a timespec, which lives across it.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn plain_calls(image: &Path, size: u64) -> Result<f64, Box<dyn Error>> {
    let file = File::open(image)?;
    let mut buffers = vec![0_u8; BLOCK * DEPTH];
    let mut offsets = Offsets::new(size);
    let before = own_time();
    for _ in 0..BATCHES {
        for buffer in buffers.chunks_exact_mut(BLOCK) {
            if file.read_at(buffer, offsets.next())? != BLOCK {
                return Err("a read failed".into());
            }
        }
    }
    Ok(own_time() - before)
}

fn ring_calls(image: &Path, size: u64) -> Result<f64, Box<dyn Error>> {
    let file = File::open(image)?;
    let mut ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(DEPTH as u32)?;
    ring.submitter().register_files(&[file.as_raw_fd()])?;
    let mut buffers = vec![0_u8; BLOCK * DEPTH];
    let mut offsets = Offsets::new(size);
    let before = own_time();
    for _ in 0..BATCHES {
        for buffer in buffers.chunks_exact_mut(BLOCK) {
            let read = opcode::Read::new(types::Fixed(0), buffer.as_mut_ptr(), BLOCK as u32);
            let entry = read.offset(offsets.next()).build();
            // SAFETY: the buffers outlive the requests, all of which are waited for.
            unsafe { ring.submission().push(&entry) }?;
        }
        ring.submit_and_wait(DEPTH)?;
        if ring
            .completion()
            .any(|entry: io_uring::cqueue::Entry| entry.result() != BLOCK as i32)
        {
            return Err("a read failed".into());
        }
    }
    Ok(own_time() - before)
}
