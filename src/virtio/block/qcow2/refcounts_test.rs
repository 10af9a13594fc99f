use super::*;

#[test]
fn counts_of_every_width_are_read() {
    for order in 0..=6 {
        let bits = 1_u64 << order;
        let index = 13;
        let mut bytes = vec![0; 512];
        let start = (index * bits / 8) as usize;
        match order {
            0..=2 => bytes[start] = 1 << (index * bits % 8),
            _ => bytes[start + (bits / 8 - 1) as usize] = 1,
        }
        for other in 0..32 {
            assert_eq!(
                count_in(&bytes, other, order),
                u64::from(other == index),
                "{order} {other}"
            );
        }
    }
    assert_eq!(count_in(&[0, 0, 1, 2], 1, 4), 0x102);
}
