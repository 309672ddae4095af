//! The events of the process of the service, and of its database.

use std::sync::Arc;

use super::observed::{Process, signal};
use super::schedule::Schedule;
use super::{Kinds, Source};
use crate::support::secs;

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// The process of the service is stopped, and continues.
    StopService,
    StopDatabase,
    JumpClock,
}

const KINDS: &[Kind] = &[Kind::StopService, Kind::StopDatabase, Kind::JumpClock];

/// Offsets of the wall clock of the service, in seconds.
const OFFSETS: [&str; 6] = ["+3600", "-86400", "+0", "+2592000", "-7", "+7"];

pub(super) async fn run(
    sources: &[Arc<Source>; 4],
    process: &Process,
    postgres: &str,
    mut schedule: Schedule,
) -> Kinds {
    let soak = sources[0].soak.clone();
    let name = "surroundings";
    while !soak.is_over() {
        let event = schedule.next(KINDS);
        tokio::time::sleep(event.pause + secs(2)).await;
        // A request waits for it.
        let length = event.length.min(secs(6));
        match event.kind {
            Kind::StopService => {
                soak.log(name, format_args!("StopService for {length:?}"));
                let disturb = |source: &Arc<Source>| source.truth().disturb();
                let disturbances = sources.each_ref().map(disturb);
                process.signal("STOP");
                tokio::time::sleep(length).await;
                process.signal("CONT");
                tokio::time::sleep(secs(5)).await;
                for (source, disturbance) in sources.iter().zip(disturbances) {
                    source.truth().end(disturbance);
                }
            }
            Kind::StopDatabase => {
                soak.log(name, format_args!("StopDatabase for {length:?}"));
                signal(postgres, "STOP");
                tokio::time::sleep(length).await;
                signal(postgres, "CONT");
            }
            Kind::JumpClock => {
                let offset = OFFSETS[event.variant % OFFSETS.len()];
                soak.log(name, format_args!("JumpClock to {offset}"));
                process.set_clock(offset);
            }
        }
    }
    schedule.counts(name, KINDS)
}
