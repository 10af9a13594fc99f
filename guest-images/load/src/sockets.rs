//! Talks to a program of the host over a socket of the family vsock (vsock(7)). The first line of a connection is a command:
//!
//! ```text
//! take COUNT    takes so many bytes, and then says one
//! give COUNT    gives so many bytes
//! echo COUNT    gives back so many bytes, one after the other
//! ```

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Bytes that are read and written at once.
const PIECE: usize = 64 << 10;

/// Serves one program of the host after the other.
pub fn serve(port: u32) -> Result<(), Box<dyn Error>> {
    let listener = listen(port)?;
    println!("listening");
    loop {
        // SAFETY: a system call that writes no address; the descriptor is ours alone.
        let socket =
            unsafe { libc::accept(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut()) };
        if socket == -1 {
            return Err(io::Error::last_os_error().into());
        }
        // SAFETY: as above.
        converse(File::from(unsafe { OwnedFd::from_raw_fd(socket) }))?;
    }
}

fn listen(port: u32) -> io::Result<OwnedFd> {
    // SAFETY: zeroes are a valid address.
    let mut address: libc::sockaddr_vm = unsafe { mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = libc::VMADDR_CID_ANY;
    address.svm_port = port;
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is of this length, and the descriptor is ours alone.
    unsafe {
        let socket = libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0);
        if socket == -1 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(socket);
        match libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) == 0
            && libc::listen(socket.as_raw_fd(), 1) == 0
        {
            true => Ok(socket),
            false => Err(io::Error::last_os_error()),
        }
    }
}

fn converse(mut socket: File) -> Result<(), Box<dyn Error>> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        socket.read_exact(&mut byte)?;
        match byte[0] {
            b'\n' => break,
            byte => line.push(byte),
        }
    }
    let line = String::from_utf8(line)?;
    let (command, count) = line.split_once(' ').ok_or("it is not a command and a number")?;
    let mut left: usize = count.parse()?;
    let mut piece = vec![0; PIECE];
    match command {
        "take" => {
            while left > 0 {
                match socket.read(&mut piece)? {
                    0 => return Err("it ends too early".into()),
                    taken => left = left.checked_sub(taken).ok_or("it sends too much")?,
                }
            }
            socket.write_all(&[1])?;
        }
        "give" => {
            while left > 0 {
                let count = left.min(PIECE);
                socket.write_all(&piece[..count])?;
                left -= count;
            }
        }
        "echo" => {
            for _ in 0..left {
                socket.read_exact(&mut byte)?;
                socket.write_all(&byte)?;
            }
        }
        _ => return Err(format!("{line:?} is none of take, give and echo").into()),
    }
    Ok(())
}
