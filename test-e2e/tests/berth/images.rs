//! Images that are made and given away with `berth image`.

use cri_api::v1;
use test_e2e::fixture::Fixture;

fn use_image(image: &str) -> impl FnOnce(&mut v1::ContainerConfig) {
    let image = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
    move |config| config.image = Some(image)
}

#[tokio::test]
async fn a_container_is_committed_exported_imported_and_run_again() {
    let e2e = Fixture::own("commit").await;
    let (_pod, container) = e2e.run("origin", &["sleep", "1000"]).await;
    container
        .sh("echo made > /made; rm /etc/group; rm -r /home && mkdir /home && touch /home/new; chmod 4711 /made")
        .await;
    let look = "cat /made; stat -c %a /made; ls /etc/group 2>&1; ls /home; id -un";
    let expected = "made\n4711\nls: /etc/group: No such file or directory\nnew\nroot\n";

    let id = e2e.agent().image(&["commit", &container.id[..12], "team/made:1"]).expect("commit");
    let told = e2e.client.image_status("team/made:1").await.expect("status").expect("the new image");
    assert_eq!((told.id.as_str(), told.repo_tags), (id.as_str(), vec!["docker.io/team/made:1".to_owned()]));
    assert_eq!(e2e.output_of("committed", look, use_image(&id)).await, (0, expected.to_owned()));

    let archive = e2e.folder("export").join("made.tar");
    let path = archive.display().to_string();
    e2e.agent().image(&["export", "team/made:1", &path]).expect("export");
    e2e.agent().image(&["rm", "team/made:1"]).expect("rm");
    assert_eq!(e2e.client.image_status("team/made:1").await.expect("status"), None);
    e2e.agent().image(&["import", &path]).expect("import");
    assert_eq!(e2e.output_of("imported", look, use_image("team/made:1")).await, (0, expected.to_owned()));

    let unknown = e2e.agent().image(&["commit", "ffffffffffff", "x"]).expect_err("no such container");
    assert!(unknown.to_string().contains("does not exist"), "{unknown}");
}
