use super::*;

#[test]
fn a_ring_takes_no_other_operation_and_no_other_file() {
    let (image, other) = (
        tempfile::NamedTempFile::new().unwrap(),
        tempfile::tempfile().unwrap(),
    );
    image.as_file().set_len(4096).unwrap();
    let disk = crate::config::Disk::new(image.path().into());
    let image = crate::virtio::block::image::Image::open(&disk).unwrap();
    let notifier = EventFd::new(0).unwrap();
    let mut ring = Ring::new(image.files().unwrap(), &notifier, 8).unwrap();
    let mut byte = 1_u8;
    let mut result = |entry: squeue::Entry| {
        // SAFETY: the byte that an entry points to outlives the wait for its completion.
        unsafe { ring.ring.submission().push(&entry) }.unwrap();
        ring.ring.submit_and_wait(1).unwrap();
        ring.ring.completion().next().unwrap().result()
    };
    assert_eq!(result(opcode::Read::new(IMAGE, &raw mut byte, 1).build()), 1);
    assert_eq!(byte, 0);
    let by_number = io_uring::types::Fd(other.as_raw_fd());
    let beyond = Fixed(2);
    for (entry, error) in [
        (opcode::Nop::new().build(), libc::EACCES),
        (
            opcode::Read::new(by_number, &raw mut byte, 1).build(),
            libc::EACCES,
        ),
        (opcode::Read::new(beyond, &raw mut byte, 1).build(), libc::EBADF),
        (opcode::Ftruncate::new(IMAGE, 0).build(), libc::EACCES),
        (
            opcode::OpenAt::new(by_number, c"/etc/passwd".as_ptr()).build(),
            libc::EACCES,
        ),
    ] {
        assert_eq!(result(entry), -error);
    }
    let registered = ring.ring.submitter().unregister_files();
    assert_eq!(registered.unwrap_err().raw_os_error(), Some(libc::EACCES));
}
