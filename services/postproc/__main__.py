"""``python -m services.postproc``: the post-processing service."""

from services.common.options import PostprocOptions
from services.common.stage_service import main
from services.common.stage_spec import StageServiceSpec
from services.postproc.settings import PostprocSettings
from splatmill.v1 import postproc_pb2, postproc_pb2_grpc, progress_pb2

SPEC = StageServiceSpec(
    name="postproc",
    stage=progress_pb2.STAGE_POSTPROC,
    function="services.postproc.stage:run",
    options=PostprocOptions,
    options_field="postproc",
    settings=PostprocSettings,
    port_setting="postproc_port",
    service_name="splatmill.v1.PostprocService",
    method="RunPostproc",
    response=postproc_pb2.RunPostprocResponse,
    register=postproc_pb2_grpc.add_PostprocServiceServicer_to_server,
)

if __name__ == "__main__":
    main(SPEC)
