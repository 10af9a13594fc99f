//! When the console's log was written, in a file beside it: for each second in which the guest has printed something, the position
//! in the log at which that second began. Where the log has a hole, the file has one, too.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

/// Bytes of an entry: the position in the log, and the time in milliseconds since 1970, both little-endian.
const ENTRY: u64 = 16;
/// What is older than the log becomes a hole in pieces of this size. A guest that prints a byte a second has the most entries: one for
/// each byte of the log.
const PIECE: u64 = 64 << 10;
/// Between two entries.
const INTERVAL: Duration = Duration::from_secs(1);

/// Notes times.
pub struct Times {
    file: File,
    end: u64,
    /// The positions in the log of the first entry of each piece that is no hole.
    pieces: VecDeque<u64>,
    /// What is before this position is a hole.
    start: u64,
    /// Of the last entry.
    last: Option<SystemTime>,
}

impl Times {
    pub fn new(file: File) -> Self {
        Self {
            file,
            end: 0,
            pieces: VecDeque::new(),
            start: 0,
            last: None,
        }
    }

    /// Notes that what comes at this position of the log was printed now. The log begins at `kept`.
    pub fn note(&mut self, position: u64, now: SystemTime, kept: u64) -> io::Result<()> {
        // A clock that was set back counts as another second.
        let passed = self.last.map(|last| now.duration_since(last));
        if matches!(passed, Some(Ok(passed)) if passed < INTERVAL) {
            return Ok(());
        }
        self.last = Some(now);
        let time = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let entry = [position, time.as_millis() as u64].map(u64::to_le_bytes);
        self.file.write_all(entry.as_flattened())?;
        if self.end.is_multiple_of(PIECE) {
            self.pieces.push_back(position);
        }
        self.end += ENTRY;
        while self.pieces.get(1).is_some_and(|next| *next <= kept) {
            punch(&self.file, self.start, self.start + PIECE)?;
            self.start += PIECE;
            self.pieces.pop_front();
        }
        Ok(())
    }
}

/// Makes a hole of what is between two positions of a file.
pub fn punch(file: &File, from: u64, to: u64) -> io::Result<()> {
    let flags = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let (from, length) = (from as libc::off_t, (to - from) as libc::off_t);
    // SAFETY: a system call without pointers.
    match unsafe { libc::fallocate(file.as_raw_fd(), flags, from, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Finds times, also while they are noted. Nothing that is in the file is believed for more than what is shown.
pub struct TimesReader {
    file: File,
    /// The entry that was found last, and the one after it.
    found: Option<(Entry, Option<Entry>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    position: u64,
    time: SystemTime,
}

impl TimesReader {
    pub fn new(file: File) -> Self {
        Self { file, found: None }
    }

    /// Where in the log that begins which was printed at this time or later. What was printed in the second before may be in it,
    /// because no more is known. None if nothing was.
    pub fn position_of(&self, time: SystemTime) -> io::Result<Option<u64>> {
        // The first entry of a second that had not passed at that time.
        let index = self.first(|entry| entry.time + INTERVAL > time)?;
        Ok(self.entry(index)?.map(|entry| entry.position))
    }

    /// When the byte at this position of the log was printed, if that is known.
    pub fn time_of(&mut self, position: u64) -> io::Result<Option<SystemTime>> {
        if let Some((entry, next)) = &self.found
            && entry.position <= position
            && next.is_some_and(|next| position < next.position)
        {
            return Ok(Some(entry.time));
        }
        let after = self.first(|entry| entry.position > position)?;
        let entry = match after.checked_sub(1) {
            Some(index) => self.entry(index)?,
            None => None,
        };
        let next = self.entry(after)?;
        self.found = entry.map(|entry| (entry, next));
        Ok(entry.map(|entry| entry.time))
    }

    /// The index of the first entry that has this property, as all after it have, or the number of entries.
    fn first(&self, has: impl Fn(&Entry) -> bool) -> io::Result<u64> {
        let (mut begin, mut end) = (0, self.file.metadata()?.len() / ENTRY);
        while begin < end {
            let middle = begin + (end - begin) / 2;
            match self.entry(middle)? {
                Some(entry) if has(&entry) => end = middle,
                // In a hole everything is older.
                _ => begin = middle + 1,
            }
        }
        Ok(begin)
    }

    fn entry(&self, index: u64) -> io::Result<Option<Entry>> {
        let mut bytes = [[0; 8]; 2];
        let read = self.file.read_exact_at(bytes.as_flattened_mut(), index * ENTRY);
        let [position, millis] = bytes.map(u64::from_le_bytes);
        let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis));
        match (read, time) {
            (Err(error), _) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            (Err(error), _) => Err(error),
            // So that a second can be added to it.
            (Ok(()), Some(time)) if (1..1 << 60).contains(&millis) => Ok(Some(Entry { position, time })),
            (Ok(()), _) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs_f64(1000.0 + seconds)
    }

    fn both() -> (Times, TimesReader) {
        let file = tempfile::NamedTempFile::new().unwrap();
        (
            Times::new(file.reopen().unwrap()),
            TimesReader::new(file.reopen().unwrap()),
        )
    }

    #[test]
    fn a_position_has_the_time_of_its_second_and_a_time_the_position_of_its_second() {
        let (mut times, mut reader) = both();
        assert_eq!(reader.time_of(0).unwrap(), None);
        assert_eq!(reader.position_of(at(0.0)).unwrap(), None);
        for (position, seconds) in [(0, 0.0), (5, 0.5), (7, 1.25), (20, 9.0)] {
            times.note(position, at(seconds), 0).unwrap();
        }
        for (position, seconds) in [(0, 0.0), (6, 0.0), (7, 1.25), (19, 1.25), (20, 9.0), (99, 9.0)] {
            assert_eq!(reader.time_of(position).unwrap(), Some(at(seconds)), "{position}");
        }
        for (seconds, position) in [
            (-5.0, Some(0)),
            (0.9, Some(0)),
            (1.1, Some(7)),
            (5.0, Some(20)),
            (10.5, None),
        ] {
            assert_eq!(reader.position_of(at(seconds)).unwrap(), position, "{seconds}");
        }
        // What was the last entry is not any more.
        times.note(50, at(20.0), 0).unwrap();
        assert_eq!(reader.time_of(99).unwrap(), Some(at(20.0)));
    }

    #[test]
    fn entries_are_kept_as_long_as_what_they_are_of_and_take_no_room_after_that() {
        let (mut times, mut reader) = both();
        let of_a_piece = PIECE / ENTRY;
        // A guest that prints a line a second, for days.
        let seconds = 70 * of_a_piece;
        for second in 0..seconds {
            times.note(3 * second, at(second as f64), 0).unwrap();
        }
        assert_eq!(times.start, 0);
        assert_eq!(reader.position_of(at(1.0)).unwrap(), Some(3));
        // The log begins in the third piece from now on.
        let kept = 3 * (2 * of_a_piece + 5);
        times.note(3 * seconds, at(seconds as f64), kept).unwrap();
        assert_eq!(times.start, 2 * PIECE);
        let first = 2 * of_a_piece;
        assert_eq!(reader.time_of(3 * first - 1).unwrap(), None);
        for second in first..seconds {
            assert_eq!(reader.time_of(3 * second).unwrap(), Some(at(second as f64)));
        }
        assert_eq!(reader.position_of(at(0.0)).unwrap(), Some(3 * first));
        // With the last piece still being written, nothing of it is given up.
        times
            .note(3 * seconds + 3, at(seconds as f64 + 1.0), 3 * seconds)
            .unwrap();
        assert_eq!(reader.time_of(3 * seconds).unwrap(), Some(at(seconds as f64)));
    }

    #[test]
    fn a_clock_that_is_set_back_and_a_file_that_lies_do_no_harm() {
        let (mut times, mut reader) = both();
        times.note(0, at(50.0), 0).unwrap();
        times.note(10, at(10.0), 0).unwrap();
        assert_eq!(reader.time_of(10).unwrap(), Some(at(10.0)));
        let file = tempfile::NamedTempFile::new().unwrap();
        file.reopen().unwrap().write_all(&[0xff; 100]).unwrap();
        let mut reader = TimesReader::new(file.reopen().unwrap());
        assert_eq!(reader.time_of(u64::MAX).unwrap(), None);
        assert_eq!(reader.position_of(at(0.0)).unwrap(), None);
    }
}
