//! Kernel: where partitions end, as the client last heard it with the records that it fetched: nobody is asked. The client
//! library keeps it, its Rust wrapper does not pass it on.

use std::ffi::CString;

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::types::RDKafkaRespErr;

/// The offset after the last record of a partition, if the client has heard of it.
pub(crate) fn known_end<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &str, number: i32) -> Option<i64> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client lives as long as the borrow of it, the name is terminated and outlives the call, and both results
    // are written by the call only.
    let error = unsafe {
        let client = consumer.client().native_ptr();
        native::rd_kafka_get_watermark_offsets(client, topic.as_ptr(), number, &raw mut low, &raw mut high)
    };
    (error == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
}
