use super::super::test_images::*;
use super::*;

const ROOM: u64 = 64 << 20;

fn unpacked<'a>(image: &'a Image, compression: Compression, length: usize) -> Result<Unpacked<'a>, Problem> {
    Unpacked::new(image, compression, 0, length as u64, ROOM)
}

/// Larger than the kept head and a chunk.
fn data() -> Vec<u8> {
    noise(400_001)
}

#[test]
fn every_compression_gives_back_what_was_packed() {
    let data = data();
    for compression in COMPRESSIONS {
        let packed = payload(compression, &data);
        assert_eq!(Compression::recognise(&packed), Some(compression));
        let image = in_a_file(&packed);
        let mut unpacked = unpacked(&image, compression, packed.len()).unwrap();
        assert_eq!(unpacked.length().unwrap(), data.len() as u64);
        let mut out = vec![0; data.len()];
        unpacked.read(0, &mut out).unwrap();
        assert!(out == data, "{compression}");
        unpacked.finish().unwrap();
    }
}

#[test]
fn lz4_blocks_follow_each_other() {
    let data = noise((8 << 20) + 100_000);
    let packed = payload(Compression::Lz4, &data);
    let image = built_in(&packed);
    let mut unpacked = unpacked(&image, Compression::Lz4, packed.len()).unwrap();
    let mut out = vec![0; 200_000];
    let offset = (8 << 20) - 100_000;
    unpacked.read(offset as u64, &mut out).unwrap();
    assert!(out == data[offset..]);
    unpacked.finish().unwrap();
}

#[test]
fn the_start_can_be_read_again_and_the_rest_only_forwards() {
    let data = data();
    let packed = payload(Compression::Lz4, &data);
    let image = built_in(&packed);
    let mut unpacked = unpacked(&image, Compression::Lz4, packed.len()).unwrap();
    let mut piece = vec![0; 0x2_0000];
    for (offset, length) in [
        (0, 0x40),
        (0xfff0, 0x40),
        (3, 0x100),
        (0x1_1000, 0x2_0000),
        (0xff00, 0x100),
    ] {
        unpacked.read(offset as u64, &mut piece[..length]).unwrap();
        assert!(piece[..length] == data[offset..offset + length], "at {offset:#x}");
    }
    let error = unpacked.read(0x1_0000, &mut piece).unwrap_err();
    assert!(error.to_string().contains("overlap"), "{error}");
}

#[test]
fn segments_go_from_the_stream_into_guest_memory() {
    let data = data();
    let packed = payload(Compression::Zstd, &data);
    let image = built_in(&packed);
    let mut unpacked = unpacked(&image, Compression::Zstd, packed.len()).unwrap();
    let memory = memory(16 * MIB);
    for (offset, length) in [(0x100, 0x20), (0xfff0, 0x2_0000), (0x4_0000, 0x1_2345)] {
        unpacked
            .load(offset, length, &memory, GuestAddress(MIB + offset))
            .unwrap();
        let mut out = vec![0; length as usize];
        memory.read_slice(&mut out, GuestAddress(MIB + offset)).unwrap();
        assert!(
            out == data[offset as usize..(offset + length) as usize],
            "at {offset:#x}"
        );
    }
    unpacked.finish().unwrap();
}

/// Everything that a caller of an unpacked kernel sees of it.
fn unpack_all(packed: &[u8], compression: Compression) -> Result<u64, Problem> {
    let image = built_in(packed);
    let unpacked = unpacked(&image, compression, packed.len())?;
    let length = unpacked.length;
    unpacked.finish()?;
    Ok(length)
}

#[test]
fn a_flipped_bit_in_the_middle_is_found() {
    let data = &data();
    for compression in COMPRESSIONS {
        // LZ4's legacy frame and LZMA's old file format carry no checksum.
        if matches!(compression, Compression::Lz4 | Compression::Lzma) {
            continue;
        }
        let mut packed = payload(compression, data);
        let middle = packed.len() / 2;
        packed[middle] ^= 0x10;
        let error = unpack_all(&packed, compression).unwrap_err();
        assert!(matches!(error, Problem::Corrupt(_)), "{compression}: {error}");
    }
}

#[test]
fn a_payload_that_ends_early_is_corrupt() {
    let data = &data();
    for compression in COMPRESSIONS {
        let whole = compress(compression, data);
        let mut packed = whole[..whole.len() * 2 / 3].to_vec();
        packed.extend((data.len() as u32).to_le_bytes());
        let error = unpack_all(&packed, compression).unwrap_err();
        assert!(matches!(error, Problem::Corrupt(_)), "{compression}: {error}");
    }
}

#[test]
fn a_bomb_stops_at_the_size_that_it_says() {
    let zeros = vec![0; 4 << 20];
    for compression in COMPRESSIONS {
        let mut packed = payload(compression, &zeros);
        let end = packed.len();
        packed[end - 4..].copy_from_slice(&1000u32.to_le_bytes());
        let error = unpack_all(&packed, compression).unwrap_err();
        assert!(matches!(error, Problem::Corrupt(_)), "{compression}: {error}");
    }
}

#[test]
fn a_kernel_that_says_to_be_larger_than_the_guest_is_not_begun() {
    for compression in COMPRESSIONS {
        let mut packed = compress(compression, &data());
        packed.extend(((ROOM + 1) as u32).to_le_bytes());
        let image = built_in(&packed);
        let mut unpacked = unpacked(&image, compression, packed.len()).unwrap();
        let error = unpacked
            .load(0, HEAD + 1, &memory(MIB), GuestAddress(0))
            .unwrap_err();
        assert!(
            matches!(error, Problem::NoRoomForKernel { needs, has: ROOM } if needs == ROOM + 1),
            "{error}"
        );
        assert_eq!(unpacked.position, HEAD);
    }
}

#[test]
fn an_lz4_block_larger_than_the_format_allows_is_corrupt() {
    let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
    packed.extend(u32::MAX.to_le_bytes());
    packed.extend([0; 100]);
    packed.extend(100u32.to_le_bytes());
    assert!(
        unpack_all(&packed, Compression::Lz4)
            .unwrap_err()
            .to_string()
            .contains("4294967295 bytes")
    );
}
