use super::*;

fn lengths(lengths: &[usize]) -> Vec<usize> {
    let iovecs: Vec<_> = lengths
        .iter()
        .map(|length| libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: *length,
        })
        .collect();
    piece(&iovecs).iter().map(|iovec| iovec.iov_len).collect()
}

#[test]
fn a_submission_is_one_piece_of_a_request() {
    let whole = PIECE as usize;
    for (buffers, submitted) in [
        (&[512][..], &[512][..]),
        (&[512, 1024], &[512, 1024]),
        (&[whole / 2, whole / 2, 512], &[whole / 2, whole / 2]),
        (&[whole - 512, 1024], &[whole - 512]),
        (&[10 * whole, 512], &[10 * whole]),
    ] {
        assert_eq!(lengths(buffers), submitted);
    }
    assert_eq!(lengths(&[512; 2000]).len(), libc::UIO_MAXIOV as usize);
    let large = libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 10 * whole,
    };
    assert_eq!(length(&large) as usize, whole);
}
