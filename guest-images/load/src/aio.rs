//! Linux's asynchronous I/O (io_setup(2), io_submit(2), io_getevents(2)).

use std::ffi::c_long;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::ptr;

use super::buffer::Buffer;

/// IOCB_CMD_PREAD and IOCB_CMD_PWRITE of linux/aio_abi.h.
const READ: u16 = 0;
const WRITE: u16 = 1;

/// `struct iocb` of linux/aio_abi.h.
#[repr(C)]
#[derive(Default)]
struct Command {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    descriptor: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_descriptor: u32,
}

/// `struct io_event` of linux/aio_abi.h.
#[repr(C)]
#[derive(Clone, Default)]
struct Event {
    data: u64,
    command: u64,
    result: i64,
    result2: i64,
}

/// A transfer between the buffer of a slot and an offset of the file.
pub struct Transfer {
    pub slot: usize,
    pub offset: u64,
}

/// Transfers that are under way, each with a slot of its own. Dropped, it waits for them.
pub struct Aio<'a> {
    context: usize,
    bytes: usize,
    commands: Vec<Command>,
    /// What the kernel reads and writes while transfers are under way.
    _buffers: Vec<Buffer>,
    pointers: Vec<*mut Command>,
    events: Vec<Event>,
    slots: Vec<usize>,
    _file: PhantomData<&'a File>,
}

impl<'a> Aio<'a> {
    pub fn new(file: &'a File, writes: bool, bytes: usize, depth: usize) -> io::Result<Self> {
        let buffers = (0..depth)
            .map(|_| Buffer::new(bytes))
            .collect::<io::Result<Vec<_>>>()?;
        let commands = buffers.iter().enumerate().map(|(slot, buffer)| Command {
            data: slot as u64,
            opcode: if writes { WRITE } else { READ },
            descriptor: file.as_raw_fd().cast_unsigned(),
            buffer: buffer.as_ptr() as u64,
            bytes: bytes as u64,
            ..Command::default()
        });
        let mut aio = Self {
            context: 0,
            bytes,
            commands: commands.collect(),
            _buffers: buffers,
            pointers: Vec::with_capacity(depth),
            events: vec![Event::default(); depth],
            slots: Vec::with_capacity(depth),
            _file: PhantomData,
        };
        // SAFETY: io_setup writes one context, which is zero before, as it must be.
        checked(unsafe { libc::syscall(libc::SYS_io_setup, depth, &mut aio.context) })?;
        Ok(aio)
    }

    /// Starts these transfers, in one system call if the kernel takes them all. Their slots must be free.
    pub fn submit(&mut self, transfers: &[Transfer]) -> io::Result<()> {
        self.pointers.clear();
        for transfer in transfers {
            let command = &mut self.commands[transfer.slot];
            command.offset = transfer.offset as i64;
            self.pointers.push(command);
        }
        let mut left = self.pointers.as_mut_slice();
        while !left.is_empty() {
            // SAFETY: the pointers are those of commands that live, with the buffers that they name, until the context
            // has been destroyed, which waits for all that is under way. Nobody looks into a buffer.
            let taken = checked(unsafe {
                libc::syscall(libc::SYS_io_submit, self.context, left.len(), left.as_mut_ptr())
            })?;
            left = &mut left[taken..];
        }
        Ok(())
    }

    /// Waits until a transfer has ended, and gives the slots of all that have.
    pub fn wait(&mut self) -> io::Result<&[usize]> {
        let at_least: c_long = 1;
        // SAFETY: io_getevents writes at most as many events as there is room for; it may wait without end.
        let count = checked(unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                at_least,
                self.events.len(),
                self.events.as_mut_ptr(),
                ptr::null_mut::<libc::timespec>(),
            )
        })?;
        self.slots.clear();
        for event in &self.events[..count] {
            match event.result {
                bytes if bytes == self.bytes as i64 => self.slots.push(event.data as usize),
                error if error < 0 => return Err(io::Error::from_raw_os_error(-error as i32)),
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(&self.slots)
    }
}

impl Drop for Aio<'_> {
    fn drop(&mut self) {
        // SAFETY: the context is ours; it is gone when the call returns, and with it whatever used the buffers.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

fn checked(result: c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
