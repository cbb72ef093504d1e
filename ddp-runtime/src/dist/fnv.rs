//! A hash that is the same in all processes, builds and versions.

/// FNV-1a of 64 bits (Fowler, Noll and Vo).
pub(crate) fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    #[test]
    fn hash_is_fnv_1a() {
        let hash = |text: &str| super::hash(text.bytes());
        let known = [0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c, 0x8594_4171_f739_67e8];
        assert_eq!([hash(""), hash("a"), hash("foobar")], known);
    }
}
