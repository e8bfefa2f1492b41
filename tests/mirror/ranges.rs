//! Parts of blobs that are not held.

use bytes::Bytes;

use crate::{
    fake_upstream::{Fault, Script},
    fixture::{Mirror, REPOSITORY, first_bytes, header, read, rest_of},
    node::Backend,
};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_blob_that_is_not_held_is_given_and_all_of_it_is_kept() {
    let cases = [
        ("bytes=0-0", 0..1),
        ("bytes=100-199", 100..200),
        ("bytes=99000-", 99_000..100_000),
        ("bytes=99999-200000", 99_999..100_000),
        ("bytes=-10", 99_990..100_000),
        ("bytes=-200000", 0..100_000),
    ];
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "").await;
        for (number, (asked, range)) in cases.clone().into_iter().enumerate() {
            let image = mirror.put_image(&"v".repeat(number + 1), 100_000);
            let answer = mirror.get_range(&image.layer_path(), asked).await;
            let expected = format!("bytes {}-{}/100000", range.start, range.end - 1);
            assert_eq!(header(&answer, "content-range"), expected, "{asked}");
            assert_eq!(read(answer).await, (206, image.layer_bytes.slice(range)), "{asked}");
            mirror.until_filled("stored", number as u64 + 1).await;
            assert_eq!(mirror.keeps(&image.layer), (true, true), "{asked}");
            assert_eq!(mirror.ranges(&image.layer_path()), [""], "{asked}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_outside_of_a_blob_is_refused_with_its_length() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 100_000);
    for _ in 0..2 {
        let answer = mirror.get_range(&image.layer_path(), "bytes=100000-").await;
        assert_eq!(header(&answer, "content-range"), "bytes */100000");
        assert_eq!(read(answer).await.0, 416);
        mirror.assert_kept(&image).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_ranges_of_a_blob_that_is_not_held_come_in_one_body() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 100_000);
    let answer = mirror.get_range(&image.layer_path(), "bytes=5-9, 500-999").await;
    assert!(header(&answer, "content-type").starts_with("multipart/byteranges"));
    let (status, body) = read(answer).await;
    assert_eq!(status, 206);
    for range in [5..10, 500..1000] {
        let part = &image.layer_bytes[range.clone()];
        assert!(body.windows(part.len()).any(|window| window == part), "{range:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_a_long_blob_that_has_come_waits_for_nothing_else() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 9 * MIB);
    let path = image.layer_path();
    mirror.upstream.script(Script::new(Fault::StallAfter(MIB)).times(1));
    let part = mirror.get_range(&path, "bytes=1000-500000").await;
    assert_eq!(read(part).await, (206, image.layer_bytes.slice(1000..500_001)));
    assert_eq!(mirror.upstream.sent_bytes(), MIB as u64);
    // This one is to come.
    let end = mirror.get_range(&path, "bytes=-1000").await;
    mirror.upstream.release();
    assert_eq!(read(end).await, (206, image.layer_bytes.slice(9 * MIB - 1000..)));
    assert_eq!(mirror.asked("GET", &path), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_far_ahead_of_a_fill_is_fetched_on_its_own() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let length = 70 * MIB;
    let mut bytes = vec![7; length];
    bytes[length - 2000..].fill(8);
    let bytes = Bytes::from(bytes);
    let path = format!("blobs/{}", mirror.upstream.put_blob(REPOSITORY, bytes.clone()));
    mirror.upstream.script(Script::new(Fault::StallAfter(MIB)).times(1));
    let mut whole = Box::pin(mirror.get(&path).await.bytes_stream());
    let mut whole_read = first_bytes(&mut whole, 1000).await;
    let asked = format!("bytes={}-{}", length - 3000, length - 1001);
    let far = mirror.get_range(&path, &asked).await;
    assert_eq!(header(&far, "content-length"), "2000");
    assert_eq!(read(far).await, (206, bytes.slice(length - 3000..length - 1000)));
    assert_eq!(mirror.ranges(&path), [String::new(), format!("bytes={}-", length - 3000)]);
    mirror.upstream.release();
    whole_read.extend(rest_of(whole).await);
    assert!(whole_read == bytes, "other bytes");
    mirror.until_filled("stored", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_far_ahead_waits_where_the_upstream_gives_no_ranges() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let length = 70 * MIB;
    let bytes = Bytes::from(vec![9; length]);
    let path = format!("blobs/{}", mirror.upstream.put_blob(REPOSITORY, bytes.clone()));
    mirror.upstream.script(Script::new(Fault::IgnoreRange));
    mirror.upstream.script(Script::new(Fault::StallAfter(MIB)).times(1));
    let whole = mirror.get(&path).await;
    let asked = format!("bytes={}-", length - 1000);
    let far = mirror.get_range(&path, &asked).await;
    assert_eq!(mirror.asked("GET", &path), 2);
    mirror.upstream.release();
    assert_eq!(read(far).await, (206, bytes.slice(length - 1000..)));
    assert!(read(whole).await == (200, bytes), "other bytes");
}
