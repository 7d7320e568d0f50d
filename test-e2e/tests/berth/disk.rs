//! A full disk: the pull fails with its reason, leaves nothing, and everything else goes on.

use test_e2e::fixture::Fixture;
use test_e2e::image::{self, Compression, Format, Layer};
use test_e2e::machine::Setup;

use crate::recovery::{after_first_use, nothing_more_than};

#[tokio::test]
async fn a_full_disk_fails_the_pull_alone() {
    let setup = Setup { name: "disk".into(), root_size: Some(24), ..Default::default() };
    let e2e = Fixture::own_with(setup).await;
    let mut layer = Layer::new();
    let noise: Vec<u8> = (0..40_u64 << 17).flat_map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    layer.file("noise", &noise, 0o644).expect("file");
    let large = image::busybox(Format::Oci).expect("busybox");
    let large = large.layer(layer.finish(Compression::Zstd).expect("layer")).build();
    let reference = e2e.registry().push("e2e/large", "1", &large).expect("push");

    let (pod, container) = e2e.run("disk", &["sleep", "1000"]).await;
    let before = after_first_use(&e2e).await;
    let refused = e2e.client.pull(&reference).await.expect_err("it does not fit");
    assert!(refused.message().contains("No space left on device"), "{refused:?}");
    assert_eq!(e2e.client.image_status(&reference).await.expect("status"), None);
    nothing_more_than(&e2e, &before).await;

    assert_eq!(container.sh("echo still here").await, "still here\n");
    let second = pod.start("second", &["sleep", "1000"]).await;
    second.sh("head -c 1000000 /dev/zero > /fits").await;
}
