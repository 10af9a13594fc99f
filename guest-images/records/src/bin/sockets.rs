//! Runs in a guest and talks to programs of the host through sockets of the family vsock. The host says what is to be done.
//!
//! ```text
//! sockets serve PORT          each program of the host that connects to PORT, until one says `end`
//! sockets call PORT COUNT     so many connections to PORT of the host
//! sockets babble PORT         says noise to each program of the host that connects to PORT
//! ```
//!
//! The first line of each connection is a command of the host:
//!
//! ```text
//! echo                gives back all that comes, and then ends
//! sum                 takes all that comes, and answers with how much it was, and its CRC-32
//! send COUNT SEED     sends so many bytes, ends its direction, and then says on the console what it took as `sum` does
//! hold                reads nothing until another connection says `release`, and then does what `sum` does
//! flood               sends zeroes until nothing has been taken for a second, and says on the console how many
//! watch               says on the console how reading ends, and then writing
//! die                 the program dies, without another word
//! end                 the program ends
//! ```

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{ExitCode, exit};
use std::sync::{Condvar, Mutex};
use std::thread;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, Shutdown, SockFlag, SockType, VsockAddr, accept, bind, connect, listen,
    send, shutdown, socket,
};
use std::os::fd::FromRawFd;

/// The host's address, and the one that stands for every address of the guest.
const HOST: u32 = 2;
const ANY: u32 = u32::MAX;
/// Small, because there are many threads.
const STACK: usize = 64 << 10;
/// What is sent or taken at once.
const PIECE: usize = 16 << 10;
/// In milliseconds of the guest. Whatever can go on goes on much sooner.
const STUCK: u16 = 1000;

static RELEASED: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["serve", port] => port.parse().map_err(io::Error::other).and_then(serve),
        ["call", port, count] => {
            let numbers = port.parse().and_then(|port| Ok((port, count.parse()?)));
            numbers
                .map_err(io::Error::other)
                .and_then(|(port, count)| call(port, count))
        }
        ["babble", port] => port.parse().map_err(io::Error::other).and_then(babble),
        _ => Err(io::Error::other(
            "usage: sockets serve PORT | sockets call PORT COUNT | sockets babble PORT",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("sockets: {why}");
            ExitCode::FAILURE
        }
    }
}

fn stream() -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

fn serve(port: u32) -> io::Result<()> {
    let listener = listener(port)?;
    loop {
        start(take_call(&listener)?)?;
    }
}

fn babble(port: u32) -> io::Result<()> {
    let listener = listener(port)?;
    loop {
        let mut call = File::from(take_call(&listener)?);
        // The host may have heard enough at any time.
        let _ = call.write_all(&noise(1, PIECE));
        let _ = io::copy(&mut call, &mut io::sink());
    }
}

fn listener(port: u32) -> io::Result<OwnedFd> {
    let listener = stream()?;
    bind(listener.as_raw_fd(), &VsockAddr::new(ANY, port))?;
    listen(&listener, Backlog::new(128)?)?;
    println!("sockets: listening");
    Ok(listener)
}

fn take_call(listener: &OwnedFd) -> io::Result<OwnedFd> {
    let socket = accept(listener.as_raw_fd())?;
    // SAFETY: a descriptor that was opened by the call.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

fn call(port: u32, count: u32) -> io::Result<()> {
    let mut threads = Vec::new();
    for _ in 0..count {
        let socket = stream()?;
        connect(socket.as_raw_fd(), &VsockAddr::new(HOST, port))?;
        threads.push(start(socket)?);
    }
    let panicked = threads.into_iter().any(|thread| thread.join().is_err());
    match panicked {
        true => Err(io::Error::other("a thread panicked")),
        false => Ok(()),
    }
}

fn start(socket: OwnedFd) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().stack_size(STACK).spawn(|| {
        if let Err(why) = converse(socket) {
            println!("sockets: {why}");
        }
    })
}

/// Does what the host says.
fn converse(socket: OwnedFd) -> io::Result<()> {
    let mut input = BufReader::with_capacity(PIECE, File::from(socket.try_clone()?));
    let mut command = String::new();
    input.read_line(&mut command)?;
    let mut output = File::from(socket.try_clone()?);
    let words: Vec<&str> = command.split_whitespace().collect();
    match words[..] {
        ["echo"] => {
            io::copy(&mut input, &mut output)?;
            end(&socket)
        }
        ["sum"] => writeln!(output, "{}", sum(&mut input)?),
        ["send", count, seed] => {
            let numbers = count.parse().and_then(|count| Ok((count, seed.parse()?)));
            let (count, seed) = numbers.map_err(io::Error::other)?;
            output.write_all(&noise(seed, count))?;
            end(&socket)?;
            println!("sockets: took {}", sum(&mut input)?);
            Ok(())
        }
        ["hold"] => {
            wait_for_release();
            writeln!(output, "{}", sum(&mut input)?)
        }
        ["release"] => {
            *released() = true;
            RELEASED.1.notify_all();
            Ok(())
        }
        ["flood"] => {
            println!("sockets: sent {}", flood(&socket)?);
            end(&socket)
        }
        ["watch"] => {
            let read = input.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
            println!("sockets: read {read:?}");
            // The first one may be on its way when the other end is told.
            let written = (0..2).find_map(|_| output.write_all(b"x").err());
            println!("sockets: write {:?}", written.map(|error| error.kind()));
            Ok(())
        }
        ["die"] => exit(9),
        ["end"] => exit(0),
        _ => Err(io::Error::other(format!("the host says {command:?}"))),
    }
}

/// Ends this direction.
fn end(socket: &OwnedFd) -> io::Result<()> {
    Ok(shutdown(socket.as_raw_fd(), Shutdown::Write)?)
}

/// Takes all that comes: how much it is, and its CRC-32.
fn sum(input: &mut impl Read) -> io::Result<String> {
    let (mut count, mut sum) = (0, crc32fast::Hasher::new());
    let mut piece = vec![0; PIECE];
    loop {
        match input.read(&mut piece)? {
            0 => return Ok(format!("{count} {:08x}", sum.finalize())),
            taken => {
                count += taken;
                sum.update(&piece[..taken]);
            }
        }
    }
}

fn released() -> std::sync::MutexGuard<'static, bool> {
    RELEASED.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn wait_for_release() {
    let mut is_released = released();
    while !*is_released {
        is_released = RELEASED
            .1
            .wait(is_released)
            .unwrap_or_else(|poisoned| poisoned.into_inner());
    }
}

/// Sends until nothing is taken any more. Returns how many bytes were.
fn flood(socket: &OwnedFd) -> io::Result<usize> {
    let (piece, mut count) = ([0; PIECE], 0);
    loop {
        let mut watched = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut watched, STUCK)? == 0 {
            return Ok(count);
        }
        match send(socket.as_raw_fd(), &piece, MsgFlags::MSG_DONTWAIT).map_err(io::Error::from) {
            Ok(sent) => count += sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => (),
            Err(error) => return Err(error),
        }
    }
}

/// Bytes that look random, and are the same for the same seed (xorshift64).
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}
