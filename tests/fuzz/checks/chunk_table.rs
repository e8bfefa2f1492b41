//! Chunk tables as they are stored: what is understood is written down as it was, and has a sum for every byte.

use millpond::{
    content::ChunkTable,
    oci::{Algorithm, Digest},
};

/// Length of what a table ends with: the sum over all that stands before it.
const SUM_BYTES: usize = 4;

pub(crate) fn check(form: &[u8]) {
    let digest = Digest::of(Algorithm::Sha256, b"the blob of every table here");
    check_form(form, &digest);
    // Few texts end in the sum of what stands before, so each is given its own.
    let body = &form[..form.len().saturating_sub(SUM_BYTES)];
    let own = crc32c::crc32c_append(crc32c::crc32c(digest.to_string().as_bytes()), body);
    check_form(&[body, &own.to_le_bytes()].concat(), &digest);
}

fn check_form(form: &[u8], digest: &Digest) {
    let Some(table) = ChunkTable::decode(form, digest) else { return };
    assert_eq!(table.encode(digest), form);
    let blob_bytes = table.blob_bytes();
    let mut position = 0;
    while let Some((end, _)) = table.part_at(position) {
        assert!(position < end && end <= blob_bytes, "{position} to {end} of {blob_bytes}");
        position = end;
    }
    assert_eq!(position, blob_bytes);
}
