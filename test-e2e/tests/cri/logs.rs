//! The container's log (rules.md, rule 33): its format, long lines, reopening, and that no byte is lost.

use std::io::BufRead;
use std::path::Path;

use test_e2e::cri_log::{self, Stream};
use test_e2e::fixture::Fixture;

#[tokio::test]
async fn lines_have_their_stream_and_time() {
    let e2e = Fixture::shared().await;
    let script = "echo one; sleep 0.1; echo two >&2; sleep 0.1; echo; echo ' a  b '";
    let (_pod, container) = e2e.run("log-format", &["sh", "-c", script]).await;
    container.wait_exit().await;
    let log = container.log();
    let lines = log.lines().expect("well-formed");
    let seen: Vec<_> = lines.iter().map(|line| (line.stream, line.whole, line.text)).collect();
    let expected: [(Stream, bool, &[u8]); 4] = [
        (Stream::Stdout, true, b"one"),
        (Stream::Stderr, true, b"two"),
        (Stream::Stdout, true, b""),
        (Stream::Stdout, true, b" a  b "),
    ];
    assert_eq!(seen, expected);
    assert!(lines[0].time < lines[1].time && lines[1].time < lines[2].time, "{lines:?}");
}

#[tokio::test]
async fn long_lines_are_split_and_an_unended_one_is_partial() {
    let e2e = Fixture::shared().await;
    let script = "head -c 100000 /dev/zero | tr '\\0' x; echo; printf 'no newline'";
    let (_pod, container) = e2e.run("log-long", &["sh", "-c", script]).await;
    container.wait_exit().await;
    let log = container.log();
    let lines = log.lines().expect("well-formed");
    let (last, long) = lines.split_last().expect("lines");
    assert_eq!((last.text, last.whole), (b"no newline".as_slice(), false));
    assert_eq!(long.iter().filter(|line| line.whole).count(), 1, "one line, one F");
    assert!(long.last().expect("pieces").whole, "F is the last piece");
    assert!(long.len() >= 7 && long.iter().all(|line| line.text.len() <= 16 << 10), "pieces of 16 KiB at most");
    assert_eq!(long.iter().map(|line| line.text.len()).sum::<usize>(), 100_000);
}

#[tokio::test]
async fn reopening_loses_nothing() {
    let e2e = Fixture::shared().await;
    let script = "i=0; while [ ! -e /tmp/enough ]; do echo $i; i=$((i+1)); done; echo end; sleep 1000";
    let (_pod, container) = e2e.run("log-reopen", &["sh", "-c", script]).await;
    let mut rotated = Vec::new();
    for round in 0..10 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        let moved = container.log.with_extension(format!("log.{round}"));
        std::fs::rename(&container.log, &moved).expect("rename, as kubelet does");
        e2e.client.reopen_log(&container.id).await.expect("reopen");
        assert!(container.log.exists(), "the new file is there when the call returns");
        rotated.push(moved);
    }
    container.sh("touch /tmp/enough").await;
    container.wait_for_line("end").await;
    rotated.push(container.log.clone());
    let mut text = Vec::new();
    for path in &rotated {
        text.extend(cri_log::Log::read(path).written(Stream::Stdout).expect("well-formed"));
    }
    let text = String::from_utf8(text).expect("digits");
    let lines: Vec<&str> = text.lines().collect();
    let (last, counted) = lines.split_last().expect("lines");
    assert_eq!(*last, "end");
    assert!(counted.len() > 10);
    for (expected, line) in counted.iter().enumerate() {
        assert_eq!(*line, expected.to_string(), "a line was lost or doubled");
    }
}

#[tokio::test]
async fn an_exited_containers_log_is_not_reopened() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("log-exited", &["true"]).await;
    container.wait_exit().await;
    std::fs::remove_file(&container.log).expect("there is a log");
    e2e.client.reopen_log(&container.id).await.expect_err("it does not run");
    assert!(!container.log.exists(), "and no file was made");
}

#[tokio::test]
async fn no_log_path_is_no_log() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod_with("log-none", |config| config.log_directory.clear()).await;
    let container = pod.start_with("main", &["echo", "hi"], |config| config.log_path.clear()).await;
    assert_eq!(container.wait_exit().await.exit_code, 0);
}

#[tokio::test]
async fn sixty_four_megabytes_lose_no_byte() {
    print_and_count("log-64m", 64 << 20).await;
}

#[tokio::test]
#[ignore = "1 GB of output, several GB of log: run it by name"]
async fn a_gigabyte_loses_no_byte() {
    print_and_count("log-1g", 1 << 30).await;
}

/// Prints numbers, half of the bytes a number a line and half in lines of half a megabyte, and reads them again.
async fn print_and_count(name: &str, bytes: usize) {
    let e2e = Fixture::shared().await;
    let short = bytes / 2 / 9;
    let long = bytes / 2 / 588_895;
    let script = format!("seq 10000000 {}; for i in $(seq {long}); do seq -s , 1 100000; done", 10_000_000 + short - 1);
    let (_pod, container) = e2e.run(name, &["sh", "-c", &script]).await;
    container.wait_exit().await;
    let lines = long_lines(&container.log);
    let line: String = (1..=100_000).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
    let mut count = 0;
    for text in lines {
        let fits =
            if count < short { text == (10_000_000 + count).to_string().as_bytes() } else { text == line.as_bytes() };
        assert!(fits, "line {count}: {}", String::from_utf8_lossy(&text[..text.len().min(100)]));
        count += 1;
    }
    assert_eq!(count, short + long);
}

/// The whole lines of a log that may be larger than memory should hold.
fn long_lines(path: &Path) -> impl Iterator<Item = Vec<u8>> {
    let mut reader = std::io::BufReader::new(std::fs::File::open(path).expect("log"));
    std::iter::from_fn(move || {
        let mut text = Vec::new();
        loop {
            let mut raw = Vec::new();
            reader.read_until(b'\n', &mut raw).expect("read");
            if raw.is_empty() {
                assert!(text.is_empty(), "the log ends in a partial line");
                return None;
            }
            let line = cri_log::parse(&raw).unwrap_or_else(|why| panic!("{why}: {}", String::from_utf8_lossy(&raw)));
            text.extend_from_slice(line.text);
            if line.whole {
                return Some(text);
            }
        }
    })
}
