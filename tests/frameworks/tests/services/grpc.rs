//! The service with tonic.

use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use crate::process::{Service, await_value};
use crate::{FIRST, SECOND};

/// Calls the method. Returns its response, or the code of the failure.
async fn greet(channel: &Channel, key: Option<&str>) -> Result<String, Code> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let mut request = Request::new(());
    if let Some(key) = key {
        request
            .metadata_mut()
            .insert("x-api-key", key.parse().unwrap());
    }
    let codec = ProstCodec::<(), String>::default();
    let path = http::uri::PathAndQuery::from_static("/hello.Greeter/Greet");
    let response = client.unary(request, path, codec).await;
    response
        .map(|response| response.into_inner())
        .map_err(|status| status.code())
}

#[test]
fn tonic_follows_its_secret() {
    let service = Service::start(env!("CARGO_BIN_EXE_tonic-service"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // One connection for all calls. It is open when the service ends.
    let connected = runtime.block_on(async {
        Endpoint::from_shared(format!("http://{}", service.address))
            .unwrap()
            .connect()
            .await
    });
    let channel = connected.unwrap();
    let greet = |key| runtime.block_on(greet(&channel, key));
    assert_eq!(service.get("/live", None).0, 200);
    assert_eq!(service.get("/ready", None).0, 503);
    assert_eq!(greet(Some(FIRST)), Err(Code::Internal));

    service.secrets.set("API_KEY", FIRST);
    await_value(200, || service.get("/ready", None).0);
    assert_eq!(greet(Some(FIRST)), Ok("hello".to_owned()));
    assert_eq!(greet(Some(SECOND)), Err(Code::Unauthenticated));
    assert_eq!(greet(None), Err(Code::Unauthenticated));

    service.secrets.set("API_KEY", SECOND);
    await_value(Ok("hello".to_owned()), || greet(Some(SECOND)));
    assert_eq!(
        greet(Some(FIRST)),
        Ok("hello".to_owned()),
        "the grace period"
    );
    service.process.end();
}
