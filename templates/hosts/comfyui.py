"""The sampling function as a node of ComfyUI: this file in its folder custom_nodes."""

from stepsmith.generated.vp_dpmpp_2m import SAMPLER, SDE
from stepsmith.templates.hosts.k_diffusion import sample_module


class SamplerNode:
    """A SAMPLER for the nodes SamplerCustom and SamplerCustomAdvanced."""

    CATEGORY = "sampling/custom_sampling/samplers"
    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "sampler"

    @classmethod
    def INPUT_TYPES(cls):
        number = {"default": 1.0, "min": 0.0, "max": 100.0, "step": 0.01, "round": False}
        return {"required": {"eta": ("FLOAT", number), "s_noise": ("FLOAT", number)}}

    def sampler(self, eta, s_noise):
        """(the sampler,)"""
        import comfy.samplers

        return (comfy.samplers.KSAMPLER(sample_module, {"eta": eta, "s_noise": s_noise}),)


NODE_CLASS_MAPPINGS = {f"Stepsmith {SDE} {SAMPLER}": SamplerNode}
NODE_DISPLAY_NAME_MAPPINGS = {f"Stepsmith {SDE} {SAMPLER}": f"{SAMPLER} ({SDE}, stepsmith)"}
