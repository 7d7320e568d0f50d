//! What has to hold for any packet: it is a message or an error, and a message is sent as it was received.

use prost::Message;

use super::frame::{Packet, decode};
use super::{Answer, Request, exit_file};
use crate::fuzz::Input;
use crate::sys::memfd;

/// The first byte says what the input is taken for.
pub(crate) fn messages(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 4 {
        0 => hold::<Request>(input.rest()),
        1 => hold::<Answer>(input.rest()),
        2 => in_memory_file(input.rest()),
        _ => exit_record(input.rest()),
    }
}

fn hold<M: Message + Default + PartialEq>(body: &[u8]) {
    let packet = [&[0], body].concat();
    let Ok((message, fds)) = decode::<M>(&packet, Vec::new()) else { return };
    assert!(fds.is_empty());
    assert_eq!(message.encoded_len(), message.encode_to_vec().len());
    let again = M::decode(message.encode_to_vec().as_slice());
    assert!(again.is_ok_and(|again| again == message));
    assert!(Packet::new(&message, Vec::new()).is_ok());
}

/// A large message comes in a file of memory; what is in it is treated no other way.
fn in_memory_file(body: &[u8]) {
    let inline = decode::<Request>(&[&[0], body].concat(), Vec::new());
    let file = memfd::sealed(c"fuzz", body).expect("a file of memory");
    let in_file = decode::<Request>(&[1], vec![file]);
    assert_eq!(inline.ok().map(|(message, _)| message), in_file.ok().map(|(message, _)| message));
    assert!(decode::<Request>(body, Vec::new()).is_err() || body.first() == Some(&0));
}

fn exit_record(text: &[u8]) {
    if let Ok(record) = exit_file::decode(text) {
        assert_eq!(exit_file::decode(exit_file::encode(&record).as_bytes()).ok(), Some(record));
    }
}
