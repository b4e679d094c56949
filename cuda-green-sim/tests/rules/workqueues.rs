//! Workqueue resources, as the 13.1 header and later ones have them.

use cuda_green_sys::*;

use crate::client::{Client, INVALID_VALUE, OK, REFUSED, SM};

const CONFIG: CUdevResourceType = CUdevResourceType::CU_DEV_RESOURCE_TYPE_WORKQUEUE_CONFIG;
const EXISTING: CUdevResourceType = CUdevResourceType::CU_DEV_RESOURCE_TYPE_WORKQUEUE;
const UNKNOWN_TYPE: CUresult = CUresult::CUDA_ERROR_INVALID_RESOURCE_TYPE;

fn of_device(client: &Client, kind: CUdevResourceType) -> Result<CUdevResource, CUresult> {
    let mut resource = CUdevResource::default();
    unsafe { client.api.cuDeviceGetDevResource(0, &mut resource, kind) }
        .unwrap()
        .ok()?;
    Ok(resource)
}

fn of_primary(client: &Client, kind: CUdevResourceType) -> CUdevResource {
    let mut resource = CUdevResource::default();
    let code = unsafe {
        client
            .api
            .cuCtxGetDevResource(client.primary, &mut resource, kind)
    };
    assert_eq!(code.unwrap(), OK);
    resource
}

fn of_green(client: &Client, green: CUgreenCtx, kind: CUdevResourceType) -> CUdevResource {
    let mut resource = CUdevResource::default();
    let code = unsafe {
        client
            .api
            .cuGreenCtxGetDevResource(green, &mut resource, kind)
    };
    assert_eq!(code.unwrap(), OK);
    resource
}

fn config(resource: &CUdevResource) -> (i32, u32, u32) {
    assert_eq!(resource.type_, CONFIG);
    let config = unsafe { resource.__bindgen_anon_1.wqConfig };
    (
        config.device,
        config.wqConcurrencyLimit,
        config.sharingScope.0,
    )
}

fn handle(resource: &CUdevResource) -> [u8; 40] {
    assert_eq!(resource.type_, EXISTING);
    unsafe { resource.__bindgen_anon_1.wq }.reserved
}

fn configured(of: CUdevResource, limit: u32, scope: u32) -> CUdevResource {
    let mut resource = of;
    resource.__bindgen_anon_1.wqConfig.wqConcurrencyLimit = limit;
    resource.__bindgen_anon_1.wqConfig.sharingScope = CUdevWorkqueueConfigScope(scope);
    resource
}

#[test]
fn they_came_with_13_1() {
    let client = Client::new("h200@13.0");
    for kind in [CONFIG, EXISTING] {
        assert_eq!(of_device(&client, kind).err(), Some(UNKNOWN_TYPE));
    }
    client.finish();
    let client = Client::new("h200@13.1");
    assert_eq!(config(&of_device(&client, CONFIG).unwrap()), (0, 8, 0));
    // The device's workqueue is what its contexts use by default, and can be in a descriptor beside SMs.
    let existing = of_device(&client, EXISTING).unwrap();
    assert_eq!(handle(&existing), handle(&of_primary(&client, EXISTING)));
    let units = client.split(&client.device_sms(), 2, 0, 8).unwrap().groups;
    let plain = client.green(&units[..1]).unwrap();
    let given = client.green(&[units[1], existing]).unwrap();
    let of = |green| handle(&of_green(&client, green, EXISTING));
    assert_eq!(of(given), of(plain));
    assert_eq!(client.destroy(plain), OK);
    assert_eq!(client.destroy(given), OK);
    client.finish();
}

#[test]
fn a_context_keeps_what_it_was_created_with() {
    let client = Client::new("h200@13.5");
    let units = client.split(&client.device_sms(), 15, 0, 8).unwrap().groups;
    let default = of_device(&client, CONFIG).unwrap();
    let plain = client.green(&units[..1]).unwrap();
    let balanced = configured(default, 3, 1);
    let (one, two) = (
        client.green(&[units[1], balanced]).unwrap(),
        client.green(&[units[2], balanced]).unwrap(),
    );
    assert_eq!(config(&of_green(&client, plain, CONFIG)), (0, 8, 0));
    assert_eq!(config(&of_green(&client, one, CONFIG)), (0, 3, 1));

    // A context without its own workqueue has the primary context's; each configuration makes a new one.
    let of = |green| handle(&of_green(&client, green, EXISTING));
    let shared = of_primary(&client, EXISTING);
    assert_eq!(of(plain), handle(&shared));
    assert_eq!(of(one), of(one), "it stays the same");
    assert!(of(one) != of(two) && of(one) != of(plain));

    // An existing workqueue can be shared explicitly.
    let its = of_green(&client, one, EXISTING);
    let three = client.green(&[units[3], its]).unwrap();
    assert_eq!(of(three), of(one));
    assert_eq!(config(&of_green(&client, three, CONFIG)), (0, 3, 1));
    assert_eq!(client.destroy(one), OK);
    assert!(
        client.descriptor(&[units[4], its]).is_ok(),
        "the third has it still"
    );
    assert_eq!(client.destroy(three), OK);
    assert_eq!(
        client.descriptor(&[units[4], its]).err(),
        Some(INVALID_VALUE)
    );
    for green in [plain, two] {
        assert_eq!(client.destroy(green), OK);
    }
    client.finish();
}

#[test]
fn what_is_refused() {
    let client = Client::new("2xh200@13.1");
    let unit = client.split(&client.device_sms(), 1, 0, 8).unwrap().groups[0];
    let default = of_device(&client, CONFIG).unwrap();
    let code = |resources: &[CUdevResource]| client.descriptor(resources).err();
    assert_eq!(code(&[unit, default, default]), Some(REFUSED));
    assert_eq!(
        code(&[unit, configured(default, 8, 2)]),
        Some(INVALID_VALUE)
    );
    let mut foreign = default;
    foreign.__bindgen_anon_1.wqConfig.device = 1;
    assert_eq!(code(&[unit, foreign]), Some(REFUSED));
    let mut forged = of_primary(&client, EXISTING);
    forged.__bindgen_anon_1.wq.reserved = [7; 40];
    assert_eq!(code(&[unit, forged]), Some(INVALID_VALUE));
    // A stream returns only SMs (13.1 header).
    let green = client.green(&[unit]).unwrap();
    let stream = client.stream(green);
    let mut resource = CUdevResource::default();
    for (kind, expected) in [(SM, OK), (CONFIG, UNKNOWN_TYPE), (EXISTING, UNKNOWN_TYPE)] {
        let code = unsafe {
            client
                .api
                .cuStreamGetDevResource(stream, &mut resource, kind)
        };
        assert_eq!(code.unwrap(), expected);
    }
    unsafe { assert_eq!(client.api.cuStreamDestroy_v2(stream).unwrap(), OK) };
    assert_eq!(client.destroy(green), OK);
    client.finish();
}
