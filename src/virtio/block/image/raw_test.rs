use vm_memory::VolatileSlice;

use super::*;

#[test]
fn short_and_interrupted_transfers_are_continued() {
    for step in [1, 3, 7, 8, 100] {
        let mut memory: Vec<u8> = (0..30).collect();
        let (head, tail) = memory.split_at_mut(11);
        let mut buffers = Buffers::default();
        buffers.push(VolatileSlice::from(head));
        buffers.push(VolatileSlice::from(tail));
        let moved = std::cell::RefCell::new(Vec::<u8>::new());
        let interrupted = std::cell::Cell::new(false);
        transfer(&mut buffers, 5, io::ErrorKind::WriteZero, |iovecs, offset| {
            if !interrupted.replace(!interrupted.get()) {
                // SAFETY: errno is this thread's own.
                unsafe { *libc::__errno_location() = libc::EINTR };
                return -1;
            }
            let mut moved = moved.borrow_mut();
            assert_eq!(offset as usize, 5 + moved.len());
            let before = moved.len();
            for iovec in iovecs {
                let count = iovec.iov_len.min(step - (moved.len() - before));
                // SAFETY: `transfer` was given live buffers.
                moved.extend(unsafe { std::slice::from_raw_parts(iovec.iov_base.cast::<u8>(), count) });
            }
            (moved.len() - before) as isize
        })
        .unwrap();
        assert_eq!(moved.into_inner(), (0..30).collect::<Vec<u8>>(), "{step}");
    }
}

#[test]
fn more_buffers_than_one_system_call_takes_are_moved_in_several() {
    let mut contents: Vec<u8> = (0..3000u32).map(|value| value as u8).collect();
    let expected = contents.clone();
    let image = Raw::new(tempfile::tempfile().unwrap(), None, false);
    let mut buffers = Buffers::default();
    for byte in contents.chunks_mut(1) {
        buffers.push(VolatileSlice::from(byte));
    }
    image.write(&mut buffers, 512, false).unwrap();
    let mut read = vec![0; 3000];
    image.read(&mut Buffers::of(&mut read), 512).unwrap();
    assert_eq!(read, expected);
    let error = image.read(&mut Buffers::of(&mut [0]), 4096).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}
