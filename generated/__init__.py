"""stepsmith.generated"""
