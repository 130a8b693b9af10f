"""``python -m services.sfm``: the structure-from-motion service."""

from services.common.options import SfmOptions
from services.common.stage_service import main
from services.common.stage_spec import StageServiceSpec
from services.sfm.settings import SfmSettings
from splatmill.v1 import progress_pb2, sfm_pb2, sfm_pb2_grpc

SPEC = StageServiceSpec(
    name="sfm",
    stage=progress_pb2.STAGE_SFM,
    function="services.sfm.stage:run",
    options=SfmOptions,
    options_field="sfm",
    settings=SfmSettings,
    port_setting="sfm_port",
    service_name="splatmill.v1.SfmService",
    method="RunSfm",
    response=sfm_pb2.RunSfmResponse,
    register=sfm_pb2_grpc.add_SfmServiceServicer_to_server,
)

if __name__ == "__main__":
    main(SPEC)
