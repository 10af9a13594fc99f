//! An image that is ready to be run: its layers are unpacked, and its root file system has its metadata.

use std::io;

use coracle_images::store::{Image, Store};
use coracle_images::{Error as ImageError, Platform};

use super::super::{Error, system};
use crate::console::tell;
use crate::diagnosis::exit_code;

/// Makes the root file system of an image that a guest can run, so that its first start is as quick as any other. That it cannot be
/// made is no reason not to have the image.
pub fn make_root(store: &Store, image: &Image) {
    let has_root = image.configuration.chain_id().is_some();
    if has_root
        && Platform::default().takes(&image.configuration.platform())
        && let Err(why) = store.make_root_of(image)
    {
        log::warn!("this image cannot be run: {why}");
    }
}

/// Makes an image ready if it is not. Images that other programs have put into the store are not, and those of earlier versions. That
/// is the work of another process, so that this one has no threads when a guest starts in it, not even some that are about to end.
pub fn make_ready(store: &Store, image: &Image) -> Result<(), Error> {
    let layers = &image.configuration.diff_ids;
    let root = image.configuration.chain_id();
    let is_ready = layers.iter().all(|layer| store.layer_path(layer).exists())
        && root.is_some_and(|root| store.root_path(&root).exists());
    if is_ready {
        return Ok(());
    }
    const WHAT: &str = "start a process that unpacks the image";
    // SAFETY: no other thread runs that could hold a lock. The child ends here, and has the parent's signals.
    let child = match unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        libc::fork()
    } {
        -1 => return Err(system(WHAT)(io::Error::last_os_error())),
        0 => {
            // SAFETY: the call takes numbers.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let made = store.unpack(image).and_then(|()| store.make_root_of(image));
            let code = made.map_or_else(told, |()| 0);
            // SAFETY: ends this process, which has nothing else to do.
            unsafe { libc::_exit(code.into()) }
        }
        child => child,
    };
    match wait_for(child).map_err(system(WHAT))? {
        0 => Ok(()),
        code => Err(Error::Told(code)),
    }
}

/// Tells of an error, and gives its exit code.
fn told(error: ImageError) -> u8 {
    let error = Error::from(error);
    tell(format_args!("coracle: {error}"));
    error.exit_code()
}

/// Waits for the child's end, and gives its exit code.
fn wait_for(child: libc::pid_t) -> io::Result<u8> {
    let mut status = 0;
    // SAFETY: the call writes one number.
    while unsafe { libc::waitpid(child, &mut status, 0) } == -1 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(match libc::WIFSIGNALED(status) {
        true => exit_code::from_signal(libc::WTERMSIG(status)),
        false => libc::WEXITSTATUS(status) as u8,
    })
}
